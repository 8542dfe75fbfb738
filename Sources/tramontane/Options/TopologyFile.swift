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
            let topology = try YAMLDecoder().decode(Topology.self, from: text)
            try topology.validate(for: shape)
            return topology
        } catch let error as TopologyError {
            throw CommandError.usage("\(file): \(error.message)")
        } catch let error as DecodingError {
            throw CommandError.usage("\(file): \(describe(error))")
        }
    }

    private static func describe(_ error: DecodingError) -> String {
        switch error {
        case .keyNotFound(let key, let context): "\(place(context))\(key.stringValue) is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            "\(place(context))\(context.debugDescription)"
        case .dataCorrupted(let context):
            (context.underlyingError as? YamlError).map { "\($0)" } ?? "\(place(context))\(context.debugDescription)"
        @unknown default: "it is no topology"
        }
    }

    private static func place(_ context: DecodingError.Context) -> String {
        context.codingPath.isEmpty ? "" : context.codingPath.map(\.stringValue).joined(separator: ".") + ": "
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

    /// What `--workers` and `--stages` come to.
    func evenTopology(_ model: ResolvedModel) throws -> Topology {
        do {
            return try Topology.even(shape: model.manifest.shape, workers: workerNames, stages: stages ?? 1)
        } catch {
            throw CommandError.usage(error.message)
        }
    }
}
