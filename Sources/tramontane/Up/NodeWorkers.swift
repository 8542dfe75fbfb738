import ArgumentParser
import Engine

/// What `--numa` says: a node's number, or a worker for each node.
enum NUMAChoice: Equatable {
    case all
    case node(Int32)

    /// For `@Option(transform:)`.
    static func parse(_ text: String) throws -> NUMAChoice {
        if text == "all" { return .all }
        guard let number = Int32(text), number >= 0 else {
            throw ValidationError("\"\(text)\" is neither \"all\" nor a NUMA node's number")
        }
        return .node(number)
    }
}

extension NUMANodes {
    /// The node of that number.
    func node(_ number: Int32) throws -> NUMANode {
        guard let node = usable.first(where: { $0.number == number }) else {
            let numbers = usable.map { String($0.number) }.joined(separator: ", ")
            throw CommandError.usage(
                "--numa \(number): the nodes with processors and memory that this process may use are \(numbers)")
        }
        return node
    }
}

/// The node that a worker runs on, and its threads there.
struct NodeWorker: Equatable {
    let name: String
    let node: Int32
    let threads: Int

    /// Deals workers out over nodes, one after the other: those of one stage compute at the same time, and so read different
    /// memories. The workers of a node share its processors.
    ///
    /// - Parameters:
    ///   - threads: of each worker; nil for what the processors come to.
    ///   - available: threads that this process may run at once. A cgroup's quota may be below the number of processors, and
    ///     is shared as they are.
    /// - Throws: ``CommandError`` where a node would have no worker.
    static func deal(
        _ names: [String], over nodes: [NUMANode], threads: Int?, available: Int
    ) throws -> [NodeWorker] {
        guard names.count >= nodes.count else {
            throw CommandError.usage(
                "--numa all: \(names.count) workers are too few for \(nodes.count) NUMA nodes; each has at least one")
        }
        let processors = nodes.reduce(0) { $0 + $1.processors.count }
        return names.enumerated().map { index, name in
            let place = index % nodes.count
            let own = min(nodes[place].processors.count, nodes[place].processors.count * available / processors)
            let sharers = (names.count - 1 - place) / nodes.count + 1
            return NodeWorker(name: name, node: nodes[place].number, threads: threads ?? max(1, own / sharers))
        }
    }
}
