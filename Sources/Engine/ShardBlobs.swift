import Logging
import ModelStore
import Synchronization

/// Where an engine has its weights.
package enum WeightMemory: String, Sendable, CaseIterable {
    /// In mappings of the store's files: there at once, shared between processes, and dropped where memory is short. A file
    /// that somebody cuts ends the process.
    case mapped
    /// In memory of the process's own, in huge pages and on its NUMA node: read once at the start, it stays.
    case resident
}

extension ShardSpec {
    /// The blobs that the shard needs, each once, in the order of their first use.
    func blobs(of manifest: Manifest) -> [BlobReference] {
        var seen: Set<String> = []
        var all: [BlobReference] = []
        func add(_ blob: BlobReference) {
            if seen.insert(blob.sha256).inserted { all.append(blob) }
        }
        for layer in layers {
            add(manifest.layers[layer].dense)
            for expert in experts.sorted() { add(manifest.layers[layer].experts[expert]) }
        }
        if embedding { add(manifest.embedding) }
        if head { add(manifest.head) }
        return all
    }
}

/// The blobs of a shard, in memory.
struct ShardBlobs {
    private let held: [String: MappedBlob]

    /// By SHA-256, sorted.
    var names: [String] { held.keys.sorted() }
    var bytes: Int { held.values.reduce(0) { $0 + $1.bytes.count } }

    /// Maps or reads blobs, as many at once as the pool has threads: a hash is made in order, so a blob is one thread's work.
    ///
    /// - Parameter beforeEachBlob: on any of the pool's threads, but never on two at once.
    /// - Throws: of the blobs that failed, the first one's error: what `beforeEachBlob` threw, `ModelError`, or `EngineError`
    ///   `memory`.
    init(
        _ references: [BlobReference], store: Store, memory: WeightMemory, verify: Bool, pool: ThreadPool,
        logger: Logger?, beforeEachBlob: () throws -> Void
    ) throws {
        let node = memory == .resident ? NUMANodes().pinned : nil
        let progress = Mutex(Progress())
        pool.run(items: references.count) { item in
            do {
                // A blob after one that failed is of no use; one before it may be what is to be told.
                let isWanted = try progress.withLock { progress in
                    guard item < progress.failed else { return false }
                    try beforeEachBlob()
                    return true
                }
                guard isWanted else { return }
                let reference = references[item]
                let blob: MappedBlob
                switch memory {
                case .mapped: blob = try store.map(reference, verify: verify)
                case .resident:
                    let memory = try MappedMemory(bytes: reference.bytes)
                    let isBound = node.map { memory.bind(toNode: $0) } ?? true
                    let bytes = UnsafeMutableRawBufferPointer(start: memory.base, count: reference.bytes)
                    try store.read(reference, into: bytes, verify: verify)
                    try memory.seal()
                    blob = MappedBlob(reference: reference, bytes: UnsafeRawBufferPointer(bytes), memory: memory)
                    if !isBound { progress.withLock { $0.unbound += 1 } }
                }
                progress.withLock { $0.blobs[reference.sha256] = blob }
            } catch {
                progress.withLock { progress in
                    guard item < progress.failed else { return }
                    progress.failed = item
                    progress.error = error
                }
            }
        }
        let result = progress.withLock { $0 }
        if let error = result.error { throw error }
        if result.unbound > 0, let node {
            logger?.notice("the system does not bind memory to NUMA node \(node); going on without it")
        }
        held = result.blobs
    }

    private struct Progress {
        var blobs: [String: MappedBlob] = [:]
        /// The first item that failed so far.
        var failed = Int.max
        var error: (any Error)?
        var unbound = 0
    }

    /// One of the shard's blobs.
    subscript(reference: BlobReference) -> MappedBlob {
        guard let blob = held[reference.sha256] else {
            preconditionFailure("a shard's weights are made of its own blobs")
        }
        return blob
    }
}
