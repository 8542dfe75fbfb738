import NIOCore
import NIOPosix
import Synchronization

/// The answers of one loop's connections for which something has come. Tokens of a step come together: one task of the loop
/// delivers all of them.
final class DeliveryQueue: Sendable {
    private static let ofThread = ThreadSpecificVariable<DeliveryQueue>()

    private let loop: any EventLoop
    private let waiting = Mutex<[NIOLoopBound<AnswerDelivery>]>([])

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

    /// Something has come for an answer of this loop. Called from any thread.
    func add(_ delivery: NIOLoopBound<AnswerDelivery>) {
        let isFirst = waiting.withLock { waiting in
            waiting.append(delivery)
            return waiting.count == 1
        }
        if isFirst { loop.execute { self.deliver() } }
    }

    private func deliver() {
        let deliveries = waiting.withLock { waiting in
            defer { waiting = [] }
            return waiting
        }
        for delivery in deliveries { delivery.value.deliver() }
    }
}
