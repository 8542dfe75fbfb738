import NIOCore
import Transport
import Wire

/// One connection to the coordinator's control plane: registration, assignments, heartbeats. Confined to the control loop,
/// which never computes, so that a long product is not mistaken for death.
final class ControlSession: ConnectionDelegate {
    struct End: Sendable {
        let reason: Failure?
    }

    private let accounting: WorkerAccounting
    private let onAssign: @Sendable (ProtoAssign) -> Void
    private let ended: EventLoopPromise<End>
    private var heartbeats: RepeatedTask?

    init(
        accounting: WorkerAccounting, ended: EventLoopPromise<End>, onAssign: @escaping @Sendable (ProtoAssign) -> Void
    ) {
        self.accounting = accounting
        self.ended = ended
        self.onAssign = onAssign
    }

    /// Registers and begins to send heartbeats. On the loop.
    func begin(on connection: Connection, register: ProtoRegister, heartbeatMilliseconds: Int) {
        accounting.opened(connection, peer: "coordinator")
        connection.send(Frame(.register, register))
        let interval = TimeAmount.milliseconds(Int64(heartbeatMilliseconds))
        accounting.coordinatorKnowsNothing()
        heartbeats = connection.eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) {
            [accounting] _ in connection.send(Frame(.heartbeat, accounting.heartbeat()))
        }
    }

    func received(_ frame: Frame, on connection: Connection) {
        // The transport lets nothing else through to a worker.
        guard frame.kind == .assign else { return }
        do throws(Failure) {
            let assign: ProtoAssign = try frame.message()
            onAssign(assign)
        } catch {
            connection.close(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        heartbeats?.cancel()
        accounting.closed(connection)
        ended.succeed(End(reason: reason))
    }
}
