import Logging
import Synchronization
import Testing

@testable import Gateway

struct ConnectionLimitTests {
    /// Counts what is logged.
    private final class Counter: LogHandler, Sendable {
        let count = Mutex(0)
        var metadata: Logger.Metadata {
            get { [:] }
            set {}
        }
        var logLevel: Logger.Level {
            get { .info }
            set {}
        }

        subscript(metadataKey _: String) -> Logger.Metadata.Value? {
            get { nil }
            set {}
        }

        func log(event: LogEvent) { count.withLock { $0 += 1 } }
    }

    @Test func itSaysThatOthersWaitWithoutRepeatingItself() {
        let logged = Counter()
        var limit = ConnectionLimit(4, logger: Logger(label: "test") { _ in logged })
        var count: Int { logged.count.withLock { $0 } }
        for _ in 0..<3 { limit.connectionOpened() }
        #expect(limit.isAcceptingNewConnections() && count == 0)
        limit.connectionOpened()
        #expect(!limit.isAcceptingNewConnections() && count == 1)
        // One leaves, and one that waited comes in.
        limit.connectionClosed()
        #expect(limit.isAcceptingNewConnections())
        limit.connectionOpened()
        #expect(count == 1)
        for _ in 0..<2 { limit.connectionClosed() }
        for _ in 0..<2 { limit.connectionOpened() }
        #expect(count == 2)
    }
}
