import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Synchronization
import Wire

/// Loads shards on a thread of its own: mapping, hashing and widening take seconds to minutes, in which event loops must go on.
/// Only the shard that was asked for last is wanted: the load of another one gives up before its next blob.
struct ShardLoader: Sendable {
    private let configuration: WorkerConfiguration
    private let logger: Logger
    /// One thread, so that two loads are never in memory at once.
    let thread = NIOThreadPool(numberOfThreads: 1)
    private let wanted = Wanted()

    /// The number of the load whose shard is wanted; 0 for none.
    private final class Wanted: Sendable {
        private let loads = Mutex((last: UInt64(0), wanted: UInt64(0)))

        func next() -> UInt64 {
            loads.withLock { loads in
                loads.last += 1
                loads.wanted = loads.last
                return loads.last
            }
        }

        func forget() { loads.withLock { $0.wanted = 0 } }
        func isWanted(_ load: UInt64) -> Bool { loads.withLock { $0.wanted == load } }
    }

    /// Hands an engine from the thread that made it to the loop that uses it.
    ///
    /// `Engine` belongs to one thread at a time. The loader's thread keeps no reference after it has passed this on, and the
    /// loop's task queue orders everything before the loop's first use.
    private struct Handover: @unchecked Sendable {
        let engine: Engine
    }

    init(configuration: WorkerConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
        thread.start()
    }

    /// Loads a shard, then calls `completion` on the loop, from which this is called too. A load that is still under way gives
    /// up, with the failure `load_superseded`.
    func load(
        _ shard: ShardSpec, pages: Int, on eventLoop: any EventLoop,
        completion: @escaping (Result<Engine, Failure>) -> Void
    ) {
        let load = wanted.next()
        let bound = NIOLoopBound(completion, eventLoop: eventLoop)
        thread.submit { state in
            guard case .active = state else { return }
            let result = make(shard, pages: pages, load: load)
            eventLoop.execute { bound.value(result.map(\.engine)) }
        }
    }

    /// Nobody wants the shard that is being loaded any more.
    func giveUp() {
        wanted.forget()
    }

    func shutDown() async {
        giveUp()
        // The pool's only failure is to have been shut down already.
        try? await thread.shutdownGracefully()
    }

    private func make(_ shard: ShardSpec, pages: Int, load: UInt64) -> Result<Handover, Failure> {
        do {
            let weightMemory = try checkMemory(shard, pages: pages)
            let engine = try Engine(
                manifest: configuration.manifest, store: configuration.store, shard: shard, pages: pages,
                threads: configuration.threads, compute: configuration.compute, weightMemory: weightMemory,
                verifyBlobs: configuration.verifyBlobs, logger: logger,
                beforeEachBlob: {
                    guard !wanted.isWanted(load) else { return }
                    throw Failure(code: "load_superseded", message: "another assignment has come")
                })
            return .success(Handover(engine: engine))
        } catch let error as Failure {
            return .failure(error)
        } catch let error as ModelError {
            return .failure(Failure(code: error.code, message: error.message))
        } catch let error as EngineError {
            return .failure(Failure(code: error.code, message: error.message))
        } catch {
            return .failure(Failure(code: "load_failed", message: "\(error)"))
        }
    }

    /// Tells where the memory will go.
    ///
    /// - Returns: where the weights will be.
    /// - Throws: `Failure` or `EngineError` where it is more than the operator grants or the system has.
    private func checkMemory(_ shard: ShardSpec, pages: Int) throws -> WeightMemory {
        var plan = try MemoryPlan(
            manifest: configuration.manifest, shard: shard, pages: pages,
            weightMemory: configuration.weightMemory ?? .mapped, compute: configuration.compute,
            stepRows: Self.stepRows)
        if configuration.weightMemory == nil { plan.settleWeights() }
        let available = AvailableMemory(for: plan.weightMemory)
        for line in plan.table(available) { logger.info("memory: \(line)") }
        try plan.check(available)
        let (held, overflow) = plan.weightBytes.addingReportingOverflow(plan.keyValueBytes)
        guard !overflow, held <= configuration.memoryBytes else {
            throw Failure(
                code: "memory_insufficient",
                message:
                    "\(plan.weightBytes) bytes of weights and \(plan.keyValueBytes) of KV cache are more than the "
                    + "\(configuration.memoryBytes) that this worker may use")
        }
        return plan.weightMemory
    }

    /// A chunk of a prompt with many streams' decoding beside it. The coordinator decides it, step by step.
    private static let stepRows = 512
}
