import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Wire

/// Loads shards on a thread of its own: mapping, hashing and widening take seconds to minutes, in which event loops must go on.
struct ShardLoader: Sendable {
    private let configuration: WorkerConfiguration
    private let logger: Logger
    /// One thread, so that two loads are never in memory at once.
    private let thread = NIOThreadPool(numberOfThreads: 1)

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

    /// Loads a shard, then calls `completion` on the plane's loop.
    func load(
        _ shard: ShardSpec, pages: Int, for plane: DataPlane,
        completion: @escaping (DataPlane, Result<Engine, Failure>) -> Void
    ) {
        let bound = NIOLoopBound((plane, completion), eventLoop: plane.eventLoop)
        let eventLoop = plane.eventLoop
        thread.submit { state in
            guard case .active = state else { return }
            let result = make(shard, pages: pages)
            eventLoop.execute {
                let (plane, completion) = bound.value
                completion(plane, result.map(\.engine))
            }
        }
    }

    func shutDown() async {
        // The pool's only failure is to have been shut down already.
        try? await thread.shutdownGracefully()
    }

    private func make(_ shard: ShardSpec, pages: Int) -> Result<Handover, Failure> {
        do {
            let engine = try Engine(
                manifest: configuration.manifest, store: configuration.store, shard: shard, pages: pages,
                threads: configuration.threads, compute: configuration.compute,
                verifyBlobs: configuration.verifyBlobs, logger: logger)
            let (keyValueBytes, overflow) = engine.pageBytes.multipliedReportingOverflow(by: pages)
            let (bytes, sumOverflow) = engine.weightBytes.addingReportingOverflow(keyValueBytes)
            guard !overflow, !sumOverflow, UInt64(clamping: bytes) <= configuration.memoryBytes else {
                return .failure(
                    Failure(
                        code: "memory",
                        message:
                            "\(engine.weightBytes) bytes of weights and \(pages) pages of \(engine.pageBytes) bytes "
                            + "are more than the \(configuration.memoryBytes) that this worker may use"))
            }
            return .success(Handover(engine: engine))
        } catch let error as ModelError {
            return .failure(Failure(code: error.code, message: error.message))
        } catch let error as EngineError {
            return .failure(Failure(code: error.code, message: error.message))
        } catch {
            return .failure(Failure(code: "load_failed", message: "\(error)"))
        }
    }
}
