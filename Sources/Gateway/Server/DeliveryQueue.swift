import NIOCore
import NIOPosix
import Synchronization

/// The answers of one loop's connections for which something has come. Tokens of a step come together: one task of the loop
/// delivers all of them.
final class DeliveryQueue: Sendable {
    private static let ofThread = ThreadSpecificVariable<DeliveryQueue>()

    private let loop: any EventLoop
    private struct State {
        var waiting: [NIOLoopBound<AnswerDelivery>] = []
        /// The loop is to deliver them.
        var isWoken = false
    }

    private let state = Mutex(State())

    private init(loop: any EventLoop) {
        self.loop = loop
    }

    /// The one of a loop. Called on the loop.
    static func of(_ loop: any EventLoop) -> DeliveryQueue {
        loop.preconditionInEventLoop()
        if let queue = ofThread.currentValue, queue.loop === loop { return queue }
        let queue = DeliveryQueue(loop: loop)
        ofThread.currentValue = queue
        return queue
    }

    /// Something has come for an answer of this loop. Called from any thread, before ``wake()``.
    func add(_ delivery: NIOLoopBound<AnswerDelivery>) {
        state.withLock { $0.waiting.append(delivery) }
    }

    /// Lets the loop deliver what waits. Called from any thread.
    func wake() {
        let isDue = state.withLock { state in
            guard !state.isWoken, !state.waiting.isEmpty else { return false }
            state.isWoken = true
            return true
        }
        if isDue { loop.execute { self.deliver() } }
    }

    private func deliver() {
        let deliveries = state.withLock { state in
            defer { state = State() }
            return state.waiting
        }
        for delivery in deliveries { delivery.value.deliver() }
    }
}
