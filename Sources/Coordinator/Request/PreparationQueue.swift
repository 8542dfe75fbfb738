import Synchronization
import Wire

/// Requests of the client plane that wait to be checked and tokenised, one after the other, so that they never take more
/// than one thread. Bounded in number and in bytes, since one request may be 8 MiB.
package final class PreparationQueue: Sendable {
    package typealias Job = @Sendable () -> Void

    /// Eight of the largest requests that a client can send.
    package static let bytesLimit = 8 * Frame.maximumClientPayloadBytes

    /// What is to be done, in order.
    package let jobs: AsyncStream<Job>
    private let source: AsyncStream<Job>.Continuation
    private let limit: Int
    private let waiting = WaitingBytes()

    /// - Parameter limit: requests that may wait.
    package init(limit: Int) {
        self.limit = limit
        (jobs, source) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(limit))
    }

    /// - Parameter bytes: of the request as it came. They count until the work is done.
    /// - Returns: why the request is refused; nil when it waits.
    package func add(bytes: Int, _ work: @escaping Job) -> RequestError? {
        guard waiting.add(bytes) <= Self.bytesLimit else {
            waiting.remove(bytes)
            return .queueFull(bytes: Self.bytesLimit)
        }
        let result = source.yield { [waiting] in
            work()
            waiting.remove(bytes)
        }
        if case .enqueued = result { return nil }
        waiting.remove(bytes)
        return .queueFull(limit: limit)
    }
}

/// Apart from the queue, so that a job that is never done does not keep the queue that holds it.
private final class WaitingBytes: Sendable {
    private let bytes = Atomic<Int>(0)

    func add(_ count: Int) -> Int { bytes.add(count, ordering: .relaxed).newValue }
    func remove(_ count: Int) { bytes.subtract(count, ordering: .relaxed) }
}
