import Foundation
import Logging
import ModelStore
import NIOCore
import Transport
import Wire

/// Workers that speak the cluster's protocol over loopback and sleep instead of computing, so that what is measured is the coordinator.
/// Confined to one event loop.
///
/// A worker does one step at a time, as a real one does: it takes as long as the pace says, and steps that come meanwhile wait. With
/// several stages a step goes from home to home in this process.
final class SleepingCluster {
    struct Pace: Sendable {
        var step: TimeAmount
        var row: TimeAmount
    }

    /// Hears of steps and results, on the loop.
    protocol Observer: AnyObject {
        /// A step has arrived at its lane's first home.
        func arrived(_ step: StepBatch, at now: UInt64)
        /// A result is about to be sent.
        func sending(_ result: ProtoStepResult, at now: UInt64)
    }

    /// - Parameter name: in the coordinator's even layout, workers in order of name.
    static func name(_ worker: Int) -> String {
        let digits = String(worker)
        return "worker-" + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    }

    private static let heartbeat = TimeAmount.milliseconds(500)

    private let loop: any EventLoop
    private let pace: Pace
    private let letters: LetterTokens
    private var workers: [SleepingWorker] = []
    private var lanes: [[Int]] = []
    private var epoch: UInt64 = 0
    /// The step at hand, in the memory of the last one.
    private var step = StepBatch()
    /// The last token of each sequence, for rows that were planned ahead of it.
    private var sampled: [UInt64: Int32] = [:]
    /// Confined like this object, and alive as long as there is something to hear.
    weak var observer: (any Observer)?
    /// Steps whose results were sent.
    private var steps: UInt64 = 0

    private init(loop: any EventLoop, pace: Pace, letters: LetterTokens) {
        self.loop = loop
        self.pace = pace
        self.letters = letters
    }

    /// Starts workers and registers them with a coordinator.
    static func start(
        workers: Int, coordinator: Address, manifest: Manifest, pace: Pace, letters: LetterTokens,
        on loop: any EventLoop
    ) async throws -> NIOLoopBound<SleepingCluster> {
        let cluster = try await loop.submit {
            NIOLoopBound(SleepingCluster(loop: loop, pace: pace, letters: letters), eventLoop: loop)
        }.get()
        for number in 0..<workers {
            let name = name(number)
            var identity = LocalIdentity(
                role: .workerControl, name: name, incarnation: .random(in: 1...UInt64.max),
                numericsVersion: UInt32(clamping: manifest.numericsVersion), manifestDigest: manifest.digest)
            try await loop.submit { cluster.value.workers.append(SleepingWorker(cluster: cluster.value)) }.get()
            let listener = try await Listener.bind(
                host: "127.0.0.1", port: 0, acceptLoop: loop, childLoop: loop, identity: identity,
                roles: [.coordinatorData], logger: Logger(label: name) { _ in SwiftLogNoOpLogHandler() },
                accept: { connection throws(Failure) in
                    cluster.value.workers[number].data = connection
                    return cluster.value.workers[number]
                })
            identity.manifestDigest = []
            let control = try await Connector.connect(
                host: coordinator.host, port: coordinator.port, on: loop, identity: identity,
                makeDelegate: { _ in cluster.value.workers[number] })
            var register = ProtoRegister()
            register.name = name
            register.incarnation = identity.incarnation
            register.dataAddress = "127.0.0.1:\(listener.port)"
            register.threads = 1
            register.numericsVersion = identity.numericsVersion
            register.manifestDigest = Data(manifest.digest)
            register.processID = UInt32(clamping: getpid())
            register.instructionSet = "none"
            control.send(Frame(.register, register))
            loop.scheduleRepeatedTask(initialDelay: heartbeat, delay: heartbeat) { _ in
                var message = ProtoHeartbeat()
                message.progress = cluster.value.steps
                control.send(Frame(.heartbeat, message))
            }
        }
        return cluster
    }

    fileprivate func assign(_ assign: ProtoAssign, epoch: UInt64) {
        self.epoch = epoch
        let numbers = Dictionary(uniqueKeysWithValues: workers.indices.map { (Self.name($0), $0) })
        lanes = assign.placement.lanes.map { $0.workers.compactMap { numbers[$0] } }
    }

    fileprivate func take(_ frame: Frame) throws(Failure) {
        guard frame.epoch == epoch else { return }
        try step.read(frame.payload, in: frame.kind)
        guard let lane = Int(exactly: step.lane), lanes.indices.contains(lane) else {
            throw Failure(code: "lane_foreign", message: "lane \(step.lane): there is none")
        }
        observer?.arrived(step, at: LoadClient.now)
        // What a worker computes is ready before its time is over, so that only the sending comes after it.
        pass(result(of: step), rows: step.rowCount, lane: lane, stage: 0)
    }

    private func pass(_ result: ProtoStepResult, rows: Int, lane: Int, stage: Int) {
        guard lanes.indices.contains(lane) else { return }
        guard lanes[lane].indices.contains(stage) else { return send(result, lane: lane) }
        let worker = workers[lanes[lane][stage]]
        let cost = pace.step + pace.row * rows
        worker.busyUntil = max(worker.busyUntil, .now()) + cost
        guard cost > .zero else { return pass(result, rows: rows, lane: lane, stage: stage + 1) }
        let cluster = NIOLoopBound(self, eventLoop: loop)
        loop.scheduleTask(deadline: worker.busyUntil) {
            cluster.value.pass(result, rows: rows, lane: lane, stage: stage + 1)
        }
    }

    private func send(_ result: ProtoStepResult, lane: Int) {
        guard let home = lanes[lane].last, let connection = workers[home].data else { return }
        steps += 1
        observer?.sending(result, at: LoadClient.now)
        connection.send(.stepResult, epoch: epoch) { result.write(into: &$0) }
        connection.flush()
    }

    private func result(of step: StepBatch) -> ProtoStepResult {
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        for sequence in step.released { sampled[sequence] = nil }
        for rows in step.rows where rows.sample {
            let input = step.tokens[rows.tokens].last
            guard let last = input.map({ $0 < 0 ? sampled[rows.sequence] : $0 }) ?? nil else { continue }
            var token = ProtoSampledToken()
            token.sequence = rows.sequence
            token.token = letters.tokens[letters.index(after: last, at: Int(rows.position) + rows.tokens.count)]
            sampled[rows.sequence] = token.token
            result.tokens.append(token)
        }
        return result
    }
}

/// Both connections of one worker.
private final class SleepingWorker: ConnectionDelegate {
    private unowned let cluster: SleepingCluster
    var data: Connection?
    var busyUntil = NIODeadline.uptimeNanoseconds(0)

    init(cluster: SleepingCluster) {
        self.cluster = cluster
    }

    func received(_ frame: Frame, on connection: Connection) {
        do throws(Failure) {
            switch frame.kind {
            case .assign:
                let assign = try frame.message(ProtoAssign.self)
                cluster.assign(assign, epoch: frame.epoch)
                var ready = ProtoShardReady()
                ready.epoch = frame.epoch
                ready.pages = assign.pages
                connection.send(Frame(.shardReady, ready, epoch: frame.epoch))
            case .step: try cluster.take(frame)
            default: break
            }
        } catch {
            connection.close(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        if data === connection { data = nil }
    }
}
