import JSONText

/// One safetensors file: a JSON header, then the tensors' bytes without gaps
/// (https://github.com/huggingface/safetensors#format).
struct SafetensorsFile: Sendable {
    struct Tensor: Sendable {
        var dtype: String
        /// Outermost first.
        var shape: [Int]
        /// From the beginning of the file.
        var offset: UInt64
    }

    let file: SourceFile
    let tensors: [String: Tensor]

    /// The limit of the format's own reader.
    static let maximumHeaderBytes: UInt64 = 100_000_000

    /// Bits of each type that the format knows.
    private static let dtypeBits: [String: Int] = [
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
        "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    ]

    /// - Throws: ``ModelError``, naming the tensor.
    init(_ file: SourceFile) throws {
        guard file.size >= 8 else {
            throw ModelError(
                .fileTruncated, "too short for a safetensors file", file: file.path, offset: 0,
                found: "\(file.size) bytes", limit: "at least 8")
        }
        let length = try file.bytes(at: 0, count: 8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= Self.maximumHeaderBytes else {
            throw ModelError(
                .headerInvalid, "an impossible header length", file: file.path, offset: 0, found: "\(length)",
                limit: "at most \(Self.maximumHeaderBytes)")
        }
        guard length <= file.size - 8 else {
            throw ModelError(
                .fileTruncated, "the file ends in its header", file: file.path, offset: 0,
                found: "\(file.size) bytes", limit: "a header of \(length)")
        }
        let header = try JSONValue.parse(try file.bytes(at: 8, count: Int(length)), file: file.path, offset: 8)
        guard let members = header.object else {
            throw ModelError(
                .headerInvalid, "the header is not an object", file: file.path, offset: 8, found: header.summary)
        }
        let data = 8 + length
        var tensors: [String: Tensor] = [:]
        var ranges: [(name: String, begin: UInt64, end: UInt64)] = []
        for (name, value) in members where name != "__metadata__" {
            let (tensor, begin, end) = try Self.tensor(name, value, file: file)
            ranges.append((name, begin, end))
            tensors[name] = tensor
            // Checked against the file's size below, before anybody uses it.
            tensors[name]?.offset = data &+ begin
        }
        try Self.checkCoverage(ranges, bytes: file.size - data, file: file)
        self.file = file
        self.tensors = tensors
    }

    private static func tensor(
        _ name: String, _ value: JSONValue, file: SourceFile
    ) throws -> (Tensor, begin: UInt64, end: UInt64) {
        func failure(_ code: ModelError.Code, _ problem: String, found: JSONValue?, limit: String) -> ModelError {
            ModelError(code, problem, file: file.path, field: name, found: found?.summary ?? "nothing", limit: limit)
        }
        guard let members = value.object else {
            throw failure(.headerInvalid, "not a tensor's description", found: value, limit: "an object")
        }
        guard let dtype = members["dtype"]?.string, let bits = dtypeBits[dtype] else {
            throw failure(.unsupported, "an unknown dtype", found: members["dtype"], limit: "F32, F16 or BF16")
        }
        guard let dimensions = members["shape"]?.array, dimensions.count <= 8 else {
            throw failure(.shapeInvalid, "not a shape", found: members["shape"], limit: "up to 8 dimensions")
        }
        var shape: [Int] = []
        var elements: UInt64 = 1
        for dimension in dimensions {
            guard let size = dimension.integer, size >= 0 else {
                throw failure(.shapeInvalid, "an impossible dimension", found: dimension, limit: "a number from 0")
            }
            let (product, overflow) = elements.multipliedReportingOverflow(by: UInt64(size))
            guard !overflow, product <= UInt64.max / 64 else {
                throw ModelError(
                    .shapeInvalid, "the product of the dimensions overflows", file: file.path, field: name,
                    found: dimensions.map(\.summary).joined(separator: " x "))
            }
            elements = product
            shape.append(size)
        }
        guard let offsets = members["data_offsets"]?.array, offsets.count == 2, let begin = offsets[0].uint64,
            let end = offsets[1].uint64
        else {
            throw failure(.offsetInvalid, "not offsets", found: members["data_offsets"], limit: "[begin, end]")
        }
        guard begin <= end else {
            throw failure(
                .offsetInvalid, "the end lies before the beginning", found: offsets[1], limit: "from \(begin)")
        }
        let bytes = elements * UInt64(bits / 8)
        guard end - begin == bytes else {
            throw ModelError(
                .shapeInvalid, "the bytes are not what shape and dtype say", file: file.path, field: name,
                found: "\(end - begin) bytes", limit: "\(bytes)")
        }
        return (Tensor(dtype: dtype, shape: shape, offset: 0), begin, end)
    }

    /// Tensors follow each other without hole or overlap and end with the file.
    private static func checkCoverage(
        _ ranges: [(name: String, begin: UInt64, end: UInt64)], bytes: UInt64, file: SourceFile
    ) throws {
        var position: UInt64 = 0
        for range in ranges.sorted(by: { ($0.begin, $0.end, $0.name) < ($1.begin, $1.end, $1.name) }) {
            guard range.begin == position else {
                throw ModelError(
                    .offsetInvalid, range.begin < position ? "the tensor overlaps another" : "a hole before the tensor",
                    file: file.path, field: range.name, found: "\(range.begin)", limit: "\(position)")
            }
            guard range.end <= bytes else {
                throw ModelError(
                    .offsetInvalid, "the tensor lies past the file's end", file: file.path, field: range.name,
                    found: "\(range.end)", limit: "at most \(bytes)")
            }
            position = range.end
        }
        guard position == bytes else {
            throw ModelError(
                .offsetInvalid, "bytes behind the last tensor", file: file.path, found: "\(bytes) bytes of data",
                limit: "\(position)")
        }
    }
}
