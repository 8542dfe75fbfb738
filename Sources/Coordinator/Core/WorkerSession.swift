import Logging
import ModelStore
import NIOCore
import Transport
import Wire

/// A worker's two connections: the control connection that it dialled, and the data connection that the coordinator
/// dials once the worker has a part. The loss of either is the loss of the worker.
final class WorkerSession: ConnectionDelegate {
    let number: UInt64
    let control: Connection
    private(set) var data: Connection?
    private let core: Core
    private var address: Address?
    private var isRegistered = false
    private var isDialling = false
    private var isClosed = false

    init(number: UInt64, control: Connection, core: Core) {
        self.number = number
        self.control = control
        self.core = core
    }

    // MARK: The control connection

    func received(_ frame: Frame, on connection: Connection) {
        guard !isClosed else { return }
        do throws(Failure) {
            switch frame.kind {
            case .register: try register(frame.message())
            case .heartbeat where isRegistered:
                core.membership.heartbeat(try frame.message(), session: number, now: core.now)
            case .shardReady where isRegistered:
                core.perform(core.membership.shardReady(try frame.message(), session: number, now: core.now))
            case .peerLost where isRegistered:
                let lost = try frame.message(ProtoPeerLost.self)
                core.logger.warning(
                    "a worker cannot reach another",
                    metadata: ["worker": "\(control.peer.name)", "peer": "\(lost.name)"])
                core.membership.peerLost(name: lost.name, incarnation: lost.incarnation, now: core.now)
            default:
                throw Failure(
                    code: "frame_unexpected", message: "frame \(frame.kind.name) before the worker has registered")
            }
        } catch {
            end(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        core.metrics.traffic.closed(connection)
        end(reason ?? Failure(code: "connection_closed", message: "the control connection closed"))
    }

    private func register(_ message: ProtoRegister) throws(Failure) {
        guard !isRegistered else {
            throw Failure(code: "frame_unexpected", message: "frame register for the second time on a connection")
        }
        guard message.name == control.peer.name, message.incarnation == control.peer.incarnation else {
            throw Failure(
                code: "identity_mismatch",
                message: "register names another worker or incarnation than the handshake did")
        }
        let version = core.configuration.numericsVersion
        guard message.numericsVersion == version else {
            throw Failure(
                code: "numerics_mismatch",
                message: "numerics_version: \(NumericsVersion.text(message.numericsVersion)), the model is served with "
                    + NumericsVersion.text(version))
        }
        guard Array(message.manifestDigest) == core.manifestDigest else {
            throw Failure(code: "manifest_mismatch", message: "manifest_digest: the worker has another model")
        }
        let address: Address
        do {
            address = try Address(parsing: message.dataAddress)
        } catch {
            throw Failure(code: error.code, message: "data_address: \(error.message)")
        }
        if !message.metricsAddress.isEmpty {
            do {
                _ = try Address(parsing: message.metricsAddress)
            } catch {
                throw Failure(code: error.code, message: "metrics_address: \(error.message)")
            }
        }
        var registration = Membership.Registration(
            name: message.name, incarnation: message.incarnation, dataAddress: message.dataAddress)
        registration.threads = message.threads
        registration.memoryBytes = message.memoryBytes
        registration.processID = message.processID
        registration.instructionSet = message.instructionSet
        registration.metricsAddress = message.metricsAddress
        self.address = address
        let changes = try core.membership.register(registration, session: number, now: core.now)
        isRegistered = true
        core.workers[number] = self
        core.metrics.traffic.opened(control, peer: message.name)
        core.perform(changes)
    }

    // MARK: The data connection

    /// Dials the worker's data address, unless that was done.
    func dial() {
        guard let address, data == nil, !isDialling, !isClosed else { return }
        isDialling = true
        var identity = core.identity
        identity.role = .coordinatorData
        identity.manifestDigest = core.manifestDigest
        let session = NIOLoopBound(self, eventLoop: core.loop)
        Connector.dial(host: address.host, port: address.port, on: core.loop, identity: identity) { _ in
            DataLink(session: session.value)
        }.whenComplete { result in
            session.value.dialled(result)
        }
    }

    private func dialled(_ result: Result<Connection, any Error>) {
        isDialling = false
        switch result {
        case .success(let connection):
            guard !isClosed else {
                connection.close()
                return
            }
            guard connection.peer.name == control.peer.name, connection.peer.incarnation == control.peer.incarnation
            else {
                let failure = Failure(
                    code: "identity_mismatch",
                    message: "the data address of worker \"\(control.peer.name)\" belongs to another worker")
                connection.close(failure)
                end(failure)
                return
            }
            data = connection
            core.metrics.traffic.opened(connection, peer: connection.peer.name)
            core.perform(core.membership.dataConnected(session: number))
        case .failure(let error):
            let failure = error as? Failure ?? Failure(code: "connect_failed", message: "\(error)")
            let address = address.map { "\($0)" } ?? ""
            end(
                Failure(
                    code: "data_unreachable",
                    message: "the coordinator does not reach the data address \(address): \(failure)"))
        }
    }

    fileprivate func receivedData(_ frame: Frame) throws(Failure) {
        switch frame.kind {
        case .stepResult:
            let result = try frame.message(ProtoStepResult.self)
            try checkHome(of: result.lane, epoch: frame.epoch) { $0.last == control.peer.name }
            let now = core.microseconds
            if let time = core.scheduler.stepTime(result.stepID, lane: result.lane, epoch: frame.epoch, now: now) {
                core.metrics.stepFinished(after: .microseconds(Int64(clamping: time)))
            }
            core.handle(
                core.scheduler.receive(
                    result, epoch: frame.epoch, vocabulary: core.configuration.manifest.shape.vocabulary, now: now))
        case .stepFailed:
            let failed = try frame.message(ProtoStepFailed.self)
            try checkHome(of: failed.lane, epoch: frame.epoch) { $0.contains(control.peer.name) }
            core.logger.warning(
                "step failed",
                metadata: [
                    "worker": "\(control.peer.name)", "lane": "\(failed.lane)", "code": "\(failed.failure.code)",
                    "reason": "\(failed.failure.message)",
                ])
            core.handle(core.scheduler.stepFailed(failed, epoch: frame.epoch, now: core.microseconds))
        default:
            throw Failure(code: "frame_unexpected", message: "frame \(frame.kind.name) on a data connection")
        }
        core.schedulePump()
    }

    /// Results of another epoch are dropped later; those of this one must come from whom they can come from.
    private func checkHome(of lane: UInt32, epoch: UInt64, _ isRight: ([String]) -> Bool) throws(Failure) {
        let lanes = core.scheduler.lanes
        guard epoch == core.scheduler.epoch, let index = Int(exactly: lane), lanes.indices.contains(index)
        else { return }
        guard isRight(lanes[index].homes) else {
            throw Failure(
                code: "lane_foreign", message: "lane \(lane): worker \"\(control.peer.name)\" has no part in this")
        }
    }

    fileprivate func dataClosed(_ reason: Failure?, _ connection: Connection) {
        core.metrics.traffic.closed(connection)
        data = nil
        end(reason ?? Failure(code: "connection_closed", message: "the data connection closed"))
    }

    // MARK: The end

    /// The worker is out; the cluster is told.
    func end(_ failure: Failure) {
        guard !isClosed else { return }
        close(failure)
        guard isRegistered, !core.isStopped else { return }
        core.workers[number] = nil
        core.perform(core.membership.disconnected(session: number, failure))
    }

    /// Closes both connections, saying why.
    func close(_ failure: Failure) {
        guard !isClosed else { return }
        isClosed = true
        control.close(failure)
        data?.close(failure)
        data = nil
    }
}

/// The delegate of a worker's data connection.
private final class DataLink: ConnectionDelegate {
    private let session: WorkerSession

    init(session: WorkerSession) {
        self.session = session
    }

    func received(_ frame: Frame, on connection: Connection) {
        // Frames that arrive before the dialler has looked at who answered are not for anybody yet.
        guard session.data != nil else { return }
        do throws(Failure) {
            try session.receivedData(frame)
        } catch {
            connection.close(error)
            session.end(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        session.dataClosed(reason, connection)
    }
}
