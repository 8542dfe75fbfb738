package import ModelStore

/// What a topology asks of every worker's memory.
package struct Capacity: Sendable {
    /// What blobs are told apart by. Layers may share one, which a worker holds once.
    private struct Blob: Hashable {
        let sha256: String
        let bytes: UInt64

        init(_ reference: BlobReference) {
            sha256 = reference.sha256
            bytes = UInt64(clamping: reference.bytes)
        }
    }

    private let embedding: Blob
    private let head: Blob
    /// By layer.
    private let dense: [Blob]
    private let experts: [[Blob]]
    /// Bytes of a layer's part of a KV page.
    private let pageBytesPerLayer: UInt64

    package init(manifest: Manifest) {
        embedding = Blob(manifest.embedding)
        head = Blob(manifest.head)
        dense = manifest.layers.map { Blob($0.dense) }
        experts = manifest.layers.map { $0.experts.map(Blob.init) }
        let shape = manifest.shape
        // Keys and values, 32 tokens, float16.
        pageBytesPerLayer = [shape.headDimension, 2, 32, 2].reduce(UInt64(clamping: shape.keyValueHeads)) {
            $0.multipliedSaturating(by: UInt64(clamping: $1))
        }
    }

    /// Weights and KV pages of one worker of a validated topology, in bytes.
    package func required(
        of member: Topology.Member, stage: Topology.Stage, first: Bool, last: Bool, pages: Int
    ) -> (weights: UInt64, pages: UInt64) {
        var blobs: Set<Blob> = []
        if first { blobs.insert(embedding) }
        if last { blobs.insert(head) }
        for layer in stage.layers where dense.indices.contains(layer) {
            blobs.insert(dense[layer])
            for expert in member.experts where experts[layer].indices.contains(expert) {
                blobs.insert(experts[layer][expert])
            }
        }
        let pageBytes = UInt64(clamping: stage.layers.count).multipliedSaturating(by: pageBytesPerLayer)
        return (
            blobs.reduce(0) { $0.addingSaturating($1.bytes) },
            pageBytes.multipliedSaturating(by: UInt64(clamping: pages))
        )
    }

    /// What each worker of a validated topology needs, with the number of its stage.
    private func needs(
        of topology: Topology, pages: Int
    ) -> [(member: Topology.Member, stage: Int, weights: UInt64, pages: UInt64)] {
        topology.stages.enumerated().flatMap { index, stage in
            stage.members.map { member in
                let need = required(
                    of: member, stage: stage, first: index == 0, last: index == topology.stages.count - 1, pages: pages)
                return (member, index, need.weights, need.pages)
            }
        }
    }

    /// Checks that all workers of a validated topology fit into one machine.
    ///
    /// - Parameters:
    ///   - weightsAreResident: in memory of each worker's own; mapped ones are left to the system's cache, and not counted.
    ///   - available: the machine's memory in bytes.
    /// - Throws: `TopologyError` `memory_insufficient` with the numbers.
    package func checkTogether(
        _ topology: Topology, pages: Int, weightsAreResident: Bool, available: UInt64
    ) throws(TopologyError) {
        let needs = needs(of: topology, pages: pages)
        let weights = weightsAreResident ? needs.reduce(UInt64(0)) { $0.addingSaturating($1.weights) } : 0
        let cache = needs.reduce(UInt64(0)) { $0.addingSaturating($1.pages) }
        guard weights.addingSaturating(cache) > available else { return }
        throw TopologyError(
            code: "memory_insufficient",
            message: "\(needs.count) workers need \(weightsAreResident ? "\(weights) bytes of weights and " : "")"
                + "\(cache) bytes of KV pages, but this machine has \(available); use fewer pages (--pages, --kv-memory) or workers"
        )
    }

    /// Checks every worker's registered memory; 0 means that the worker set no limit.
    /// - Throws: `TopologyError` with the numbers of the first worker that cannot hold its part.
    package func check(
        _ topology: Topology, pages: Int, memoryBytes: [String: UInt64]
    ) throws(TopologyError) {
        for need in needs(of: topology, pages: pages) {
            let name = need.member.name
            guard let available = memoryBytes[name], available > 0,
                need.weights.addingSaturating(need.pages) > available
            else { continue }
            throw TopologyError(
                code: "memory_insufficient",
                message: "worker \"\(name)\" (stage \(need.stage)): needs \(need.weights) bytes of weights and "
                    + "\(need.pages) of KV pages, but offers \(available); give it fewer experts, more memory, or "
                    + "use fewer pages",
                worker: name)
        }
    }
}
