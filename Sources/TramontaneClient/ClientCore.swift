import Synchronization
import Transport
import Wire

/// Runs the machine: under the lock only the machine moves, effects come after it.
final class ClientCore: Sendable {
    typealias Machine = ClientStateMachine<
        CheckedContinuation<StreamItem, any Error>, CheckedContinuation<Frame, any Error>
    >

    private let machine = Mutex(Machine())
    private let connection = Mutex<Connection?>(nil)
    /// Held from the machine's move to the frame's sending, so that no call's cancellation goes out before its request.
    private let order = Mutex<Void>(())

    func attach(_ connection: Connection) {
        self.connection.withLock { $0 = connection }
    }

    func open(_ request: ProtoGenerateRequest) throws(TramontaneError) -> UInt64 {
        let (id, frame) = try machine.withLock { machine throws(TramontaneError) in try machine.open(request) }
        send(frame)
        return id
    }

    func next(_ id: UInt64) async throws -> StreamItem {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                perform(machine.withLock { $0.next(id, reader: continuation) })
            }
        } onCancel: {
            cancel(id)
        }
    }

    /// Sends a request that has one answer, and waits for it.
    func call(answer: FrameKind, request: (UInt64) -> Frame) async throws -> Frame {
        let id = machine.withLock { $0.reserve() }
        let frame = request(id)
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                order.withLock { _ in
                    perform(machine.withLock { $0.call(id, frame, answer: answer, caller: continuation) })
                }
            }
        } onCancel: {
            cancel(id)
        }
    }

    func cancel(_ id: UInt64) {
        order.withLock { _ in perform(machine.withLock { $0.cancel(id) }) }
    }

    func received(_ frame: Frame) {
        perform(machine.withLock { $0.received(frame) })
    }

    func closed(_ reason: Failure?) {
        let failure = reason ?? Failure(code: "client_closed", message: "the client was closed")
        perform(machine.withLock { $0.closed(TramontaneError(failure)) })
        connection.withLock { $0 = nil }
    }

    func close() {
        let connection = connection.withLock { $0 }
        closed(nil)
        connection?.close()
    }

    private func send(_ frame: Frame) {
        connection.withLock { $0 }?.send(frame)
    }

    private func perform(_ actions: [Machine.Action]) {
        for action in actions {
            switch action {
            case .send(let frame): send(frame)
            case .resumeReader(let reader, let result): reader.resume(with: result)
            case .resumeCaller(let caller, let result): caller.resume(with: result.mapError { $0 as any Error })
            case .close(let failure): connection.withLock { $0 }?.close(failure)
            }
        }
    }
}

/// Hands the connection's events to the core.
final class ClientDelegate: ConnectionDelegate {
    private let core: ClientCore

    init(core: ClientCore) {
        self.core = core
    }

    func received(_ frame: Frame, on connection: Connection) {
        core.received(frame)
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        core.closed(reason)
    }
}
