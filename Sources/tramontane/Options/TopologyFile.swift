import Coordinator
import Foundation
import ModelStore
import Placement

/// Reads a topology: which worker of which stage holds which layers and experts (``Topology``).
enum TopologyFile {
    /// - Throws: ``CommandError`` that names the file, what is wrong and what would be right.
    static func read(_ path: String, for shape: ModelShape) throws -> Topology {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw CommandError.usage("--topology \(path): the file cannot be read")
        }
        return try parse(String(decoding: data, as: UTF8.self), file: path, shape: shape)
    }

    static func parse(_ text: String, file: String, shape: ModelShape) throws -> Topology {
        let topology = try YAMLFile.decode(
            Topology.self, text, file: file, what: "topology", begins: "stages:")
        do {
            try topology.validate(for: shape)
        } catch {
            throw CommandError.usage("\(file): \(error.message)")
        }
        return topology
    }
}

extension ServingOptions {
    /// Names that sort in the order of their numbers.
    var workerNames: [String] {
        let count = workers ?? 1
        let width = String(count - 1).count
        return (0..<count).map { index in
            let number = String(index)
            return "worker-" + String(repeating: "0", count: width - number.count) + number
        }
    }

    /// Who holds what, checked against the model, so that a mistake shows before anything is started.
    func placed(_ model: ResolvedModel) throws -> Topology {
        guard let topology else { return try evenTopology(model) }
        return try TopologyFile.read(topology, for: model.manifest.shape)
    }

    /// Said at the start: without it, whoever gives too few pages learns so from refused requests.
    func warning(shape: ModelShape, topology: Topology) throws -> String? {
        let pages = try pagesPerWorker(shape: shape, topology: topology)
        let tokens = LanePages.tokens(pages: pages, lanes: topology.lanes)
        let wanted = min(contextLength ?? shape.contextLength, shape.contextLength)
        guard tokens < wanted else { return nil }
        let option = kvMemory == nil ? "--pages" : "--kv-memory"
        let value = kvMemory.map { "\($0)" } ?? (self.pages == nil ? "\(pages), the default" : "\(pages)")
        return
            "\(option) \(value): only \(tokens) tokens of a sequence fit into a lane's KV cache, the "
            + "context has \(wanted); give more \(option), or a smaller --context-length"
    }

    /// What `--workers` and `--stages` come to.
    private func evenTopology(_ model: ResolvedModel) throws -> Topology {
        do {
            return try Topology.even(shape: model.manifest.shape, workers: workerNames, stages: stages ?? 1)
        } catch {
            throw CommandError.usage(error.message)
        }
    }
}
