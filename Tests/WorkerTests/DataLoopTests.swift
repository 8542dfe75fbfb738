import NIOCore
import NIOPosix
import Testing

@testable import Worker

struct DataLoopTests {
    @Test func `what else the event loop has to do is done although work never ends`() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let eventLoop = group.next()
        let loop = try await DataLoop.open(on: eventLoop).get()
        let began = eventLoop.makePromise(of: Void.self)
        try await eventLoop.submit {
            loop.value.work = {
                began.succeed()
                return .more
            }
            loop.value.schedule()
        }.get()
        try await began.futureResult.get()
        try await eventLoop.submit { loop.value.close() }.get()
        try await group.shutdownGracefully()
    }
}
