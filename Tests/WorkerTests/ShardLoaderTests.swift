import Dispatch
import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Testing
import Wire

@testable import Worker

struct ShardLoaderTests {
    /// Loads shards one after the other while the loader's thread is held up, and says how each ended.
    private func ends(
        of shards: [ShardSpec], pages: Int = 4, memoryBytes: UInt64 = 1 << 34, weightMemory: WeightMemory = .mapped,
        then: @escaping @Sendable (ShardLoader) -> Void = { _ in }
    ) async throws -> [String] {
        let model = try TestModels.tiny.get()
        var configuration = WorkerConfiguration(
            name: "a", coordinatorHost: "127.0.0.1", coordinatorPort: 1, manifest: model.manifest,
            store: model.store, threads: 1, memoryBytes: memoryBytes)
        configuration.weightMemory = weightMemory
        let loader = ShardLoader(
            configuration: configuration,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let held = DispatchSemaphore(value: 0)
        loader.thread.submit { _ in held.wait() }
        let (ends, end) = AsyncStream.makeStream(of: String.self)
        try await loop.submit {
            for shard in shards {
                loader.load(shard, pages: pages, on: loop) { result in
                    switch result {
                    case .success(let engine): end.yield("\(engine.shard.experts.sorted())")
                    case .failure(let failure): end.yield(failure.code)
                    }
                }
            }
            then(loader)
            held.signal()
        }.get()
        let found = await ends.prefix(shards.count).reduce(into: [String]()) { $0.append($1) }
        await loader.shutDown()
        return found
    }

    private func shard(_ experts: Set<Int>) -> ShardSpec {
        ShardSpec(layers: 0..<1, experts: experts, embedding: true, head: false)
    }

    @Test func onlyTheShardThatWasAskedForLastIsLoaded() async throws {
        let found = try await ends(of: [shard([0, 1]), shard([2]), shard([3, 4])])
        #expect(found == ["load_superseded", "load_superseded", "[3, 4]"])
    }

    @Test(arguments: WeightMemory.allCases)
    func whatDoesNotFitIsNotLoaded(weightMemory: WeightMemory) async throws {
        #expect(try await ends(of: [shard([0])], weightMemory: weightMemory) == ["[0]"])
        let granted = try await ends(of: [shard([0])], memoryBytes: 4096, weightMemory: weightMemory)
        #expect(granted == ["memory_insufficient"])
        // 96 GiB: more than the grant, and than most machines.
        let pages = try await ends(of: [shard([0])], pages: 1 << 24, weightMemory: weightMemory)
        #expect(pages == ["memory_insufficient"])
    }

    @Test func nothingIsLoadedThatNobodyWants() async throws {
        #expect(try await ends(of: [shard([0, 1])], then: { $0.giveUp() }) == ["load_superseded"])
    }
}
