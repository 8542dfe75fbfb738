import NIOCore
import Wire
import Worker

// Events that return what follows from them.
extension WorkerMachine {
    mutating func stepReceived(_ step: ProtoStep) -> [WorkerAction] {
        actions(of: { $0.stepReceived(StepBatch(step), into: &$1) })
    }

    mutating func hiddenReceived(_ step: StepBatch, notFinite: [Int], from home: HomeID) -> [WorkerAction] {
        actions(of: { $0.hiddenReceived(step, notFinite: notFinite, from: home, into: &$1) })
    }

    mutating func layerFinished(_ work: LayerWork, routes: RowRoutes) -> [WorkerAction] {
        actions(of: { $0.layerFinished(work, routes: routes, into: &$1) })
    }

    mutating func outputFinished(_ work: OutputWork, result: OutputResult) -> [WorkerAction] {
        actions(of: { $0.outputFinished(work, result: result, into: &$1) })
    }

    mutating func expertFinished(_ work: ExpertWork, notFinite: [StepKey: [Int]]) -> [WorkerAction] {
        actions(of: { $0.expertFinished(work, notFinite: notFinite, into: &$1) })
    }

    mutating func expertsReceived(
        _ request: ExpertRequest, correlation: UInt64, format: RowFormat?, from home: HomeID
    ) -> [WorkerAction] {
        actions(of: { $0.expertsReceived(request, correlation: correlation, format: format, from: home, into: &$1) })
    }

    mutating func resultsReceived(
        _ reply: ExpertReply, correlation: UInt64, notFinite: [Int], from peer: PeerID
    ) -> [WorkerAction] {
        actions(of: { $0.resultsReceived(reply, correlation: correlation, notFinite: notFinite, from: peer, into: &$1) }
        )
    }

    mutating func linkLost(_ peer: PeerID, _ failure: Failure) -> [WorkerAction] {
        actions(of: { $0.linkLost(peer, failure, into: &$1) })
    }

    mutating func homeLost(_ home: HomeID) -> [WorkerAction] {
        actions(of: { $0.homeLost(home, into: &$1) })
    }

    /// What is computed together with `work`.
    mutating func companions(of work: ExpertWork) -> [ExpertWork] {
        var works: [ExpertWork] = []
        addCompanions(of: work, to: &works)
        return works
    }

    private mutating func actions(
        of event: (inout WorkerMachine, inout [WorkerAction]) -> Void
    ) -> [WorkerAction] {
        var actions: [WorkerAction] = []
        event(&self, &actions)
        return actions
    }
}

extension StepBatch {
    /// The message as a home reads it from the wire.
    init(_ step: ProtoStep) {
        self.init()
        do throws(Failure) {
            try read(step.wireBytes(), in: .step)
        } catch {
            preconditionFailure("\(error)")
        }
    }
}
