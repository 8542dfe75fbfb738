package import ModelStore

/// Where an engine's memory will go, known before any of it is taken.
package struct MemoryPlan: Sendable, Equatable {
    package var weightMemory: WeightMemory
    /// The shard's blobs, each once.
    package var weightBytes: UInt64
    /// Their float32 copies for OpenBLAS.
    package var widenedBytes: UInt64
    package var pages: Int
    package var keyValueBytes: UInt64
    package var stepRows: Int
    /// What steps of `stepRows` rows use; more rows take more.
    package var stepBytes: UInt64
    package var rotaryBytes: UInt64

    /// - Parameters:
    ///   - stepRows: rows of a step to reckon with.
    /// - Throws: `EngineError` `layer_range` or `expert_range`, and `ModelError` for a manifest that contradicts itself.
    package init(
        manifest: Manifest, shard: ShardSpec, pages: Int, weightMemory: WeightMemory,
        compute: ComputeBackend = .native, stepRows: Int
    ) throws {
        try manifest.validate(file: manifest.name)
        let shape = manifest.shape
        try shard.validate(for: shape)
        let blobs = shard.blobs(of: manifest)
        self.weightMemory = weightMemory
        self.pages = pages
        self.stepRows = stepRows
        weightBytes = UInt64.total(blobs.map { [$0.bytes] })
        let matrices = compute == .openblas ? blobs.flatMap { $0.tensors }.filter(\.panels) : []
        widenedBytes = UInt64.total(matrices.map { [$0.rows, $0.columns, Self.floatBytes] })
        keyValueBytes = UInt64.total([[Engine.layerPageBytes(of: shape), shard.layers.count, pages]])
        rotaryBytes = UInt64.total([[shape.contextLength, shape.headDimension, Self.floatBytes]])
        let heads = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        // Hidden states, queries with keys and values, what products return, each row once for each of its experts, the
        // router's logits, w3's outputs; then inputs and inner rows, whose quantised forms are no larger than float32.
        let row = UInt64.total([
            [2 + shape.expertsUsed, shape.hidden], [heads], [2, keys], [2, shape.experts], [shape.feedForward],
            [2, shape.hidden], [2, max(heads, shape.feedForward)],
        ])
        let logits = shard.head ? UInt64.total([[LocalRunner.logitRows, shape.vocabulary, Self.floatBytes]]) : 0
        stepBytes = UInt64.total([[Int(clamping: row), stepRows, Self.floatBytes], [Int(clamping: logits)]])
    }

    /// What several engines of one process need together; at least one, all with their weights in the same kind of memory.
    package init(together plans: [MemoryPlan]) {
        self = plans[0]
        for other in plans.dropFirst() {
            weightBytes = weightBytes.addingSaturating(other.weightBytes)
            widenedBytes = widenedBytes.addingSaturating(other.widenedBytes)
            pages += other.pages
            keyValueBytes = keyValueBytes.addingSaturating(other.keyValueBytes)
            stepBytes = stepBytes.addingSaturating(other.stepBytes)
            rotaryBytes = rotaryBytes.addingSaturating(other.rotaryBytes)
        }
    }

    private static let floatBytes = MemoryLayout<Float>.size

    /// What only this process has, and the system cannot drop: all but mapped weights.
    package var ownBytes: UInt64 {
        [weightMemory == .resident ? weightBytes : 0, widenedBytes, keyValueBytes, stepBytes, rotaryBytes]
            .reduce(0) { $0.addingSaturating($1) }
    }

    /// All of it.
    package var totalBytes: UInt64 {
        weightMemory == .resident ? ownBytes : ownBytes.addingSaturating(weightBytes)
    }

    /// - Throws: `EngineError` `memory_insufficient` where this does not fit.
    package func check(_ available: AvailableMemory) throws {
        guard ownBytes > available.bytes else { return }
        let weights = weightMemory == .resident ? "\(Self.size(weightBytes)) of resident weights, " : ""
        throw EngineError(
            code: "memory_insufficient",
            message: "\(weights)\(Self.count(pages, "KV page")) of \(Self.size(keyValueBytes)) and "
                + "\(Self.size([widenedBytes, stepBytes, rotaryBytes].reduce(0) { $0.addingSaturating($1) })) of buffers need "
                + "\(ownBytes) bytes, but \(available.place) has \(available.bytes) left; "
                + (weightMemory == .resident
                    ? "give it fewer experts or KV pages, or map the weights" : "use fewer KV pages"))
    }

    /// Makes the weights resident where this process has one of several NUMA nodes and they fit into its memory: pages of
    /// a mapped file lie on the node that read them first, whichever that was.
    package mutating func settleWeights() {
        settleWeights(node: NUMANodes().pinned, read: readText)
    }

    /// The same on a machine that `read` tells of. An eighth of the node's memory stays free for everybody else's use.
    package mutating func settleWeights(node: Int32?, read: (String) -> String?) {
        guard let node else { return }
        var resident = self
        resident.weightMemory = .resident
        let free = AvailableMemory(node: node, read: read).bytes
        if resident.ownBytes <= free - free / 8 { self = resident }
    }

    /// A table for people, a line for each use.
    package func table(_ available: AvailableMemory) -> [String] {
        var rows = [("weights, \(weightMemory.rawValue)", weightBytes)]
        if widenedBytes > 0 { rows.append(("weights, widened", widenedBytes)) }
        rows += [
            ("KV cache, \(Self.count(pages, "page"))", keyValueBytes),
            ("buffers, steps of \(Self.count(stepRows, "row"))", stepBytes),
            ("rotary table", rotaryBytes), ("total", totalBytes), ("available in \(available.place)", available.bytes),
        ]
        let width = rows.map(\.0.count).max() ?? 0
        return rows.map { name, bytes in
            let size = Self.size(bytes)
            return name + String(repeating: " ", count: width - name.count + max(2, 12 - size.count)) + size
        }
    }

    private static func count(_ number: Int, _ noun: String) -> String {
        "\(number) \(noun)\(number == 1 ? "" : "s")"
    }

    /// Rounded to tenths: "1.4 GiB".
    private static func size(_ bytes: UInt64) -> String {
        let units = ["KiB", "MiB", "GiB"]
        var (unit, scale) = (0, 1024.0)
        while unit + 1 < units.count, Double(bytes) >= scale * 1024 {
            unit += 1
            scale *= 1024
        }
        let tenths = UInt64((Double(bytes) / scale * 10).rounded())
        return "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }
}

/// How much more memory this process may take, by whichever limit is the tightest.
package struct AvailableMemory: Sendable, Equatable {
    package var bytes: UInt64
    /// What has no more: "this machine", "the cgroup /a", "NUMA node 1".
    package var place: String

    package init(bytes: UInt64, place: String) {
        self.bytes = bytes
        self.place = place
    }

    /// Looks at the machine, the process's cgroups, and, for resident weights, the NUMA node that they will be bound to.
    package init(for weightMemory: WeightMemory) {
        self.init(node: weightMemory == .resident ? NUMANodes().pinned : nil, read: readText)
    }

    /// The same on a machine that `read` tells of, file by file; it gives nil for a file that is not there.
    package init(node: Int32?, read: (String) -> String?) {
        self.init(bytes: .max, place: "this machine")
        if let bytes = Self.kibibytes("MemAvailable:", in: read("/proc/meminfo")) { self.bytes = bytes }
        for group in Cgroup.all(controller: "memory", read: read) {
            guard let left = Self.left(in: group, read), left < bytes else { continue }
            self = AvailableMemory(bytes: left, place: "the cgroup \(group.path)")
        }
        if let node, let text = read("/sys/devices/system/node/node\(node)/meminfo"),
            let free = Self.kibibytes("MemFree:", in: text)
        {
            let cached = ["Active(file):", "Inactive(file):"].compactMap { Self.kibibytes($0, in: text) }
            let left = cached.reduce(free) { $0.addingSaturating($1) }
            if left < bytes { self = AvailableMemory(bytes: left, place: "NUMA node \(node)") }
        }
    }

    /// `MemAvailable:  123 kB`, with `Node 0` before it where it is a node's.
    private static func kibibytes(_ name: String, in text: String?) -> UInt64? {
        for line in text?.split(separator: "\n") ?? [] {
            let words = line.split(separator: " ")
            guard let place = words.firstIndex(where: { $0 == name }), place + 1 < words.count,
                let value = UInt64(words[place + 1])
            else { continue }
            return value.multipliedSaturating(by: 1024)
        }
        return nil
    }

    /// A cgroup's limit less what is used and no file cache; nil where it has no limit.
    private static func left(in group: Cgroup, _ read: (String) -> String?) -> UInt64? {
        func number(_ name: String) -> UInt64? {
            read(group.folder + "/" + name)?.split(whereSeparator: \.isWhitespace).first.flatMap { UInt64($0) }
        }
        let names =
            group.isUnified
            ? (limit: "memory.max", used: "memory.current", cached: ["inactive_file", "active_file"])
            : (
                limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes",
                cached: ["total_inactive_file", "total_active_file"]
            )
        guard let limit = number(names.limit) else { return nil }
        var used = number(names.used) ?? 0
        for line in read(group.folder + "/memory.stat")?.split(separator: "\n") ?? [] {
            let words = line.split(separator: " ")
            guard words.count == 2, names.cached.contains(String(words[0])), let bytes = UInt64(words[1]) else {
                continue
            }
            used -= min(used, bytes)
        }
        return limit - min(limit, used)
    }
}

extension UInt64 {
    /// The sum of products; negative factors count as 0.
    fileprivate static func total(_ products: [[Int]]) -> UInt64 {
        products.reduce(0) { sum, factors in
            sum.addingSaturating(factors.reduce(1) { $0.multipliedSaturating(by: UInt64(clamping: $1)) })
        }
    }
}
