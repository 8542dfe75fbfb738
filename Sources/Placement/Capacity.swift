package import ModelStore

/// What a topology asks of every worker's memory.
package struct Capacity: Sendable {
    /// Bytes of the blobs and of one KV page, by layer.
    private let embeddingBytes: UInt64
    private let headBytes: UInt64
    private let denseBytes: [UInt64]
    private let expertBytes: [[UInt64]]
    private let pageBytesPerLayer: UInt64

    package init(manifest: Manifest) {
        embeddingBytes = Self.bytes(manifest.embedding)
        headBytes = Self.bytes(manifest.head)
        denseBytes = manifest.layers.map { Self.bytes($0.dense) }
        expertBytes = manifest.layers.map { $0.experts.map(Self.bytes) }
        let shape = manifest.shape
        // Keys and values, 32 tokens, float16.
        pageBytesPerLayer = [shape.headDimension, 2, 32, 2].reduce(UInt64(clamping: shape.keyValueHeads)) {
            $0.multipliedSaturating(by: UInt64(clamping: $1))
        }
    }

    private static func bytes(_ blob: BlobReference) -> UInt64 { UInt64(clamping: blob.bytes) }

    /// Weights and KV pages of one worker of a validated topology, in bytes.
    package func required(
        of member: Topology.Member, stage: Topology.Stage, first: Bool, last: Bool, pages: Int
    ) -> (weights: UInt64, pages: UInt64) {
        var weights = (first ? embeddingBytes : 0).addingSaturating(last ? headBytes : 0)
        for layer in stage.layers where denseBytes.indices.contains(layer) {
            weights = weights.addingSaturating(denseBytes[layer])
            for expert in member.experts where expertBytes[layer].indices.contains(expert) {
                weights = weights.addingSaturating(expertBytes[layer][expert])
            }
        }
        let pageBytes = UInt64(clamping: stage.layers.count).multipliedSaturating(by: pageBytesPerLayer)
        return (weights, pageBytes.multipliedSaturating(by: UInt64(clamping: pages)))
    }

    /// Checks every worker's registered memory; 0 means that the worker set no limit.
    /// - Throws: `TopologyError` with the numbers of the first worker that cannot hold its part.
    package func check(
        _ topology: Topology, pages: Int, memoryBytes: [String: UInt64]
    ) throws(TopologyError) {
        for (index, stage) in topology.stages.enumerated() {
            for member in stage.members {
                guard let available = memoryBytes[member.name], available > 0 else { continue }
                let need = required(
                    of: member, stage: stage, first: index == 0, last: index == topology.stages.count - 1, pages: pages)
                guard need.weights.addingSaturating(need.pages) > available else { continue }
                throw TopologyError(
                    code: "memory_insufficient",
                    message: "worker \"\(member.name)\" (stage \(index)): needs \(need.weights) bytes of weights and "
                        + "\(need.pages) of KV pages, but offers \(available); give it fewer experts, more memory, or "
                        + "use fewer pages",
                    worker: member.name)
            }
        }
    }
}
