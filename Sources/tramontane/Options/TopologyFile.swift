import Coordinator
import Foundation
import ModelStore
import Placement
import Yams

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
        do {
            guard try Yams.compose(yaml: text) != nil else {
                throw CommandError.usage("\(file): the file is empty; a topology begins with \"stages:\"")
            }
            let topology = try YAMLDecoder().decode(Topology.self, from: text)
            try topology.validate(for: shape)
            return topology
        } catch let error as TopologyError {
            throw CommandError.usage("\(file): \(error.message)")
        } catch let error as DecodingError {
            throw CommandError.usage("\(file): \(describe(error))")
        } catch let error as YamlError {
            throw CommandError.usage("\(file): \(error)")
        }
    }

    private static func describe(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, let context): "\(place(context))\(key.stringValue) is missing"
        case .typeMismatch(let type, let context), .valueNotFound(let type, let context):
            "\(place(context))\(name(of: type)) is expected"
        case .dataCorrupted(let context):
            (context.underlyingError as? YamlError).map { "\($0)" } ?? "\(place(context))\(context.debugDescription)"
        @unknown default: "it is no topology"
        }
    }

    /// What the reader looked for, as a writer of YAML calls it.
    private static func name(of type: Any.Type) -> String {
        if type is Node.Mapping.Type { return "a list of `key: value`" }
        if type is Node.Sequence.Type { return "a list" }
        return type is Int.Type ? "a number" : "a single value"
    }

    /// `stages[0].layers: `
    private static func place(_ context: DecodingError.Context) -> String {
        var text = ""
        for key in context.codingPath {
            text += key.intValue.map { "[\($0)]" } ?? (text.isEmpty ? "" : ".") + key.stringValue
        }
        return text.isEmpty ? "" : text + ": "
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
        return
            "\(option) \(kvMemory ?? UInt64(pages)): only \(tokens) tokens of a sequence fit into a lane's KV cache, the "
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
