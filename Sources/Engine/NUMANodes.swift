import CNUMA
import Glibc

/// A NUMA node that a worker can have for itself.
package struct NUMANode: Sendable, Equatable {
    package var number: Int32
    /// Those that this process may use, ascending.
    package var processors: [Int]

    package init(number: Int32, processors: [Int]) {
        self.number = number
        self.processors = processors
    }

    /// Lets the calling thread, and those that it starts from now on, run on the node's processors only. What they touch
    /// first then comes from the node's memory.
    ///
    /// - Throws: `EngineError` `numa` where the system does not let it.
    package func pin() throws {
        guard runOnly(onProcessors: processors) else {
            throw EngineError(
                code: "numa",
                message: "cannot run on the processors of NUMA node \(number): \(String(cString: strerror(errno)))")
        }
    }
}

/// Lets the calling thread, and those that it starts from now on, run on these processors only.
///
/// - Returns: false where the system does not let it; `errno` says why.
package func runOnly(onProcessors processors: [Int]) -> Bool {
    guard let mask = numa_allocate_cpumask() else { return false }
    defer { numa_bitmask_free(mask) }
    for processor in processors { numa_bitmask_setbit(mask, UInt32(clamping: processor)) }
    return numa_sched_setaffinity(0, mask) >= 0
}

/// The machine's NUMA nodes, as far as this process may use them.
package struct NUMANodes: Sendable, Equatable {
    /// The nodes with memory and processors, ascending; at least one. Processors beside no memory count for the nearest node
    /// that has some. Memory beside no processors (of a CXL card, say) is nobody's.
    package private(set) var usable: [NUMANode] = []
    /// Nodes of the machine that have memory, whoever may use it.
    private var withMemory: [Int] = []

    package init() {
        self.init(read: readText)
    }

    /// The nodes of a machine that `read` tells of, file by file; it gives nil for a file that is not there. A system that
    /// tells of no nodes has node 0.
    package init(read: (String) -> String?) {
        let folder = "/sys/devices/system/node/"
        let status = read("/proc/self/status")
        let allowedProcessors = Self.allowed("Cpus_allowed_list:", in: status)
        let allowedNodes = Self.allowed("Mems_allowed_list:", in: status)
        let online = read(folder + "online").flatMap(numbers(ofList:)) ?? []
        withMemory = read(folder + "has_memory").flatMap(numbers(ofList:)) ?? online
        let homes = withMemory.filter { allowedNodes?.contains($0) ?? true }
        var processors: [Int: [Int]] = [:]
        for node in online {
            let own = (read(folder + "node\(node)/cpulist").flatMap(numbers(ofList:)) ?? [])
                .filter { allowedProcessors?.contains($0) ?? true }
            guard !own.isEmpty else { continue }
            // Distances to the nodes that are online, in their order.
            let distances = read(folder + "node\(node)/distance")?.split(whereSeparator: \.isWhitespace).map { Int($0) }
            func distance(to home: Int) -> Int {
                if home == node { return 0 }
                guard let place = online.firstIndex(of: home), let distances, place < distances.count else {
                    return .max
                }
                return distances[place] ?? .max
            }
            guard let home = homes.min(by: { (distance(to: $0), $0) < (distance(to: $1), $1) }) else { continue }
            processors[home, default: []] += own
        }
        usable = processors.sorted { $0.key < $1.key }.map { node, processors in
            NUMANode(number: Int32(clamping: node), processors: processors.sorted())
        }
        if usable.isEmpty { usable = [NUMANode(number: 0, processors: allowedProcessors?.sorted() ?? [0])] }
    }

    private static func allowed(_ name: String, in status: String?) -> Set<Int>? {
        let line = status?.split(separator: "\n").first { $0.hasPrefix(name) }
        return line.flatMap { numbers(ofList: String($0.dropFirst(name.count))) }.map(Set.init)
    }

    /// The node whose processors this process runs on; nil where they are several nodes', and where one node has all of the
    /// machine's memory, so that there is nothing to choose.
    package var pinned: Int32? {
        usable.count == 1 && withMemory.count > 1 ? usable[0].number : nil
    }
}
