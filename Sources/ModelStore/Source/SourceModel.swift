import Crypto
import Foundation

/// A matrix or vector in a source file. A description only: no weight is read until it is imported.
struct SourceTensor: Sendable {
    /// As in the file, for messages.
    var name: String
    var file: SourceFile
    /// Of the first row; checked to lie in the file with all rows.
    var offset: UInt64
    var format: TensorFormat
    var rows: Int
    var columns: Int
    /// The number of heads whose rows the source keeps interleaved; nil where rows are in Hugging Face's order.
    ///
    /// llama.cpp rotates neighbouring values (2i, 2i+1), Hugging Face the halves (i, i + half); so its converter
    /// reorders the rows of Q and K in each head, and the import puts them back.
    var interleavedHeads: Int?

    var rowBytes: Int { format.rowBytes(columns: columns) }

    /// Which row of the source is row `row` of the model.
    func sourceRow(_ row: Int) -> Int {
        guard let interleavedHeads else { return row }
        let dimension = rows / interleavedHeads
        let (head, inner) = (row / dimension, row % dimension)
        let half = dimension / 2
        return head * dimension + 2 * (inner % half) + inner / half
    }

    /// Some of the rows; the range is the caller's arithmetic on checked shapes.
    func slice(_ range: Range<Int>) -> SourceTensor {
        var result = self
        result.offset += UInt64(range.lowerBound) * UInt64(rowBytes)
        result.rows = range.count
        return result
    }
}

/// The tensors of a layer, each list in the order of the blob's plan (``ModelShape/densePlan``,
/// ``ModelShape/expertPlan``).
struct SourceLayer: Sendable {
    var dense: [SourceTensor]
    var experts: [[SourceTensor]]
}

/// A model in files of others, checked: its shape, where its tensors lie, its tokenizer.
struct SourceModel: Sendable {
    /// What the source calls itself; any text.
    var name: String
    var shape: ModelShape
    /// A SentencePiece model of exactly `shape.vocabulary` pieces.
    var tokenizer: [UInt8]
    var embedding: SourceTensor
    /// `norm`, `output`
    var head: [SourceTensor]
    var layers: [SourceLayer]

    /// Reads a GGUF file (any of a split one) or a Hugging Face directory.
    ///
    /// - Throws: ``ModelError``.
    static func load(_ files: SourceFiles) throws -> SourceModel {
        switch files.kind {
        case .gguf: try GGUFModel.load(files.files)
        case .huggingFace(let directory): try HuggingFaceModel.load(directory: directory)
        }
    }
}

/// Every file that a source consists of.
struct SourceFiles: Sendable {
    enum Kind: Sendable {
        case gguf
        case huggingFace(directory: String)
    }

    var kind: Kind
    var files: [SourceFile]

    /// Finds the files without reading more than the first bytes.
    ///
    /// - Throws: ``ModelError`` `file_missing`, `file_unreadable` or `format_unknown`.
    init(path: String) throws {
        if Self.isDirectory(path) {
            try self.init(directory: path)
        } else if path.hasSuffix(".safetensors") || path.hasSuffix(".safetensors.index.json") {
            try self.init(
                directory: path.contains("/") ? String(path[..<(path.lastIndex(of: "/") ?? path.endIndex)]) : ".")
        } else {
            let file = try SourceFile(path: path)
            guard try GGUFFile.hasMagic(file) else {
                throw ModelError(
                    .formatUnknown, "neither a GGUF file nor a directory with config.json and safetensors", file: path)
            }
            self.init(kind: .gguf, files: try Self.split(of: path)?.map { try SourceFile(path: $0) } ?? [file])
        }
    }

    private init(directory: String) throws {
        var files = [try SourceFile(path: "\(directory)/config.json")]
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: directory) else {
            throw ModelError(.fileUnreadable, "the directory cannot be listed", file: directory)
        }
        for name in names.sorted()
        where name.hasSuffix(".safetensors") || name.hasSuffix(".index.json") || name.hasPrefix("tokenizer.model") {
            files.append(try SourceFile(path: "\(directory)/\(name)"))
        }
        self.init(kind: .huggingFace(directory: directory), files: files)
    }

    private init(kind: Kind, files: [SourceFile]) {
        self.kind = kind
        self.files = files
    }

    static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    static func exists(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0
    }

    /// The paths of all parts, when the name ends in `-00001-of-00003.gguf` or the like.
    private static func split(of path: String) throws -> [String]? {
        let suffix = path.utf8.suffix(20)
        guard suffix.count == 20, path.hasSuffix(".gguf") else { return nil }
        let text = Array(suffix)
        func number(_ range: Range<Int>) -> Int? {
            text[range].allSatisfy { (0x30...0x39).contains($0) }
                ? Int(String(decoding: text[range], as: UTF8.self)) : nil
        }
        guard text[0] == UInt8(ascii: "-"), let part = number(1..<6), text[6..<10].elementsEqual("-of-".utf8),
            let parts = number(10..<15), part >= 1, part <= parts
        else { return nil }
        let prefix = String(decoding: path.utf8.dropLast(20), as: UTF8.self)
        func padded(_ value: Int) -> String { String(repeating: "0", count: 5 - String(value).count) + String(value) }
        return (1...parts).map { "\(prefix)-\(padded($0))-of-\(padded(parts)).gguf" }
    }

    /// What stays the same while no file changes: files, versions of layout and numerics, and how weights are
    /// quantised.
    func key(quantize: TensorFormat?) -> String {
        var text = "import 1 format \(Manifest.currentFormatVersion) numerics \(Manifest.currentNumericsVersion)\n"
        text += "quantize \(quantize?.rawValue ?? "none")\n"
        for file in files { text += "\(file.identity)\n" }
        return Store.hexadecimal(SHA256.hash(data: Array(text.utf8)))
    }
}
