/// A value of a GGUF file's metadata. Widths are not kept: writers differ in them.
enum GGUFValue: Sendable {
    case integer(Int64)
    /// Above what an `Int64` holds.
    case large(UInt64)
    case float(Double)
    case bool(Bool)
    case string(String)
    case integers([Int64])
    case floats([Float])
    case strings([String])
    /// An array that nothing here reads, of so many elements.
    case skipped(Int)

    var summary: String {
        switch self {
        case .integer(let value): "\(value)"
        case .large(let value): "\(value)"
        case .float(let value): "\(value)"
        case .bool(let value): "\(value)"
        case .string(let text): "\"\(text)\""
        case .integers(let values): "an array of \(values.count) integers"
        case .floats(let values): "an array of \(values.count) floats"
        case .strings(let values): "an array of \(values.count) strings"
        case .skipped(let count): "an array of \(count) elements"
        }
    }
}

/// One GGUF file, version 2 or 3: metadata and where tensors lie
/// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
struct GGUFFile: Sendable {
    struct Tensor: Sendable {
        var name: String
        /// Innermost first: columns, rows, experts.
        var dimensions: [Int]
        var format: TensorFormat
        /// From the beginning of the file.
        var offset: UInt64
        var bytes: UInt64
    }

    let file: SourceFile
    let metadata: [String: GGUFValue]
    let tensors: [Tensor]

    /// A vocabulary has 32,000 to 256,000 entries.
    private static let maximumArrayCount: UInt64 = 1 << 22
    private static let maximumNameBytes = 1 << 10

    static func hasMagic(_ file: SourceFile) throws -> Bool {
        file.size >= 4 ? try file.bytes(at: 0, count: 4) == Array("GGUF".utf8) : false
    }

    /// - Throws: ``ModelError``, naming the field and its offset.
    init(_ file: SourceFile) throws {
        var cursor = ByteCursor(file)
        let magic = try cursor.take(4, "magic")
        guard magic.elementsEqual("GGUF".utf8) else {
            throw ModelError(
                .formatUnknown, "not a GGUF file", file: file.path, field: "magic", offset: 0,
                found: Store.hexadecimal(magic), limit: Store.hexadecimal("GGUF".utf8))
        }
        let version = try cursor.integer(UInt32.self, "version")
        guard version == 2 || version == 3 else {
            throw ModelError(
                .unsupported, "a version that is not read", file: file.path, field: "version", offset: 4,
                found: "\(version)", limit: "2 or 3")
        }
        // The smallest key takes 14 bytes and the smallest tensor 33, so counts are bounded by the file's size.
        let tensorCount = try Self.count(&cursor, "tensor_count", bytesEach: 33)
        let keyCount = try Self.count(&cursor, "metadata_kv_count", bytesEach: 14)
        let metadata = try Self.metadata(&cursor, count: keyCount)
        let alignment = try Self.alignment(metadata, file: file)
        self.file = file
        self.metadata = metadata
        tensors = try Self.tensors(&cursor, count: tensorCount, alignment: alignment)
    }

    private static func count(_ cursor: inout ByteCursor, _ field: String, bytesEach: UInt64) throws -> UInt64 {
        let offset = cursor.position
        let count = try cursor.integer(UInt64.self, field)
        guard count <= cursor.remaining / bytesEach else {
            throw ModelError(
                .headerInvalid, "more than the file has room for", file: cursor.file.path, field: field,
                offset: offset, found: "\(count)", limit: "at most \(cursor.remaining / bytesEach)")
        }
        return count
    }

    private static func metadata(_ cursor: inout ByteCursor, count: UInt64) throws -> [String: GGUFValue] {
        var metadata: [String: GGUFValue] = [:]
        for index in 0..<count {
            let offset = cursor.position
            let key = try cursor.string("key \(index)")
            guard !key.isEmpty else {
                throw ModelError(
                    .headerInvalid, "an empty key", file: cursor.file.path, field: "key \(index)", offset: offset)
            }
            let type = try cursor.integer(UInt32.self, key)
            let value = try value(&cursor, type: type, key: key)
            guard metadata.updateValue(value, forKey: key) == nil else {
                throw ModelError(.duplicate, "duplicate key", file: cursor.file.path, field: key, offset: offset)
            }
        }
        return metadata
    }

    private static func value(_ cursor: inout ByteCursor, type: UInt32, key: String) throws -> GGUFValue {
        switch type {
        case 0: .integer(Int64(try cursor.integer(UInt8.self, key)))
        case 1: .integer(Int64(try cursor.integer(Int8.self, key)))
        case 2: .integer(Int64(try cursor.integer(UInt16.self, key)))
        case 3: .integer(Int64(try cursor.integer(Int16.self, key)))
        case 4: .integer(Int64(try cursor.integer(UInt32.self, key)))
        case 5: .integer(Int64(try cursor.integer(Int32.self, key)))
        case 6: .float(Double(Float(bitPattern: try cursor.integer(UInt32.self, key))))
        case 7: .bool(try cursor.integer(UInt8.self, key) != 0)
        case 8: .string(try cursor.string(key))
        case 9: try array(&cursor, key: key)
        case 10: unsigned(try cursor.integer(UInt64.self, key))
        case 11: .integer(try cursor.integer(Int64.self, key))
        case 12: .float(Double(bitPattern: try cursor.integer(UInt64.self, key)))
        default: throw unknownType(type, key: key, cursor)
        }
    }

    private static func unsigned(_ value: UInt64) -> GGUFValue {
        Int64(exactly: value).map { .integer($0) } ?? .large(value)
    }

    private static func unknownType(_ type: UInt32, key: String, _ cursor: ByteCursor) -> ModelError {
        ModelError(
            .headerInvalid, "an unknown value type", file: cursor.file.path, field: key, offset: cursor.position - 4,
            found: "\(type)", limit: "0 to 12")
    }

    private static func array(_ cursor: inout ByteCursor, key: String) throws -> GGUFValue {
        let type = try cursor.integer(UInt32.self, key)
        // Bytes of an element; of a string at least its length. Arrays of arrays are in no model.
        let widths: [UInt64] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8]
        guard type < widths.count, type != 9 else { throw unknownType(type, key: key, cursor) }
        let offset = cursor.position
        let count = try cursor.integer(UInt64.self, key)
        let limit = min(cursor.remaining / widths[Int(type)], maximumArrayCount)
        guard count <= limit else {
            throw ModelError(
                .headerInvalid, "an array of too many elements", file: cursor.file.path, field: key, offset: offset,
                found: "\(count)", limit: "at most \(limit)")
        }
        switch type {
        case 4: return .integers(try (0..<count).map { _ in Int64(try cursor.integer(UInt32.self, key)) })
        case 5: return .integers(try (0..<count).map { _ in Int64(try cursor.integer(Int32.self, key)) })
        case 6: return .floats(try (0..<count).map { _ in Float(bitPattern: try cursor.integer(UInt32.self, key)) })
        case 8: return .strings(try (0..<count).map { try cursor.string("\(key)[\($0)]") })
        default:
            _ = try cursor.take(count * widths[Int(type)], key)
            return .skipped(Int(count))
        }
    }

    private static func alignment(_ metadata: [String: GGUFValue], file: SourceFile) throws -> UInt64 {
        guard let value = metadata["general.alignment"] else { return 32 }
        guard case .integer(let alignment) = value, (1...65_536).contains(alignment), alignment.nonzeroBitCount == 1
        else {
            throw ModelError(
                .valueInvalid, "an impossible alignment", file: file.path, field: "general.alignment",
                found: value.summary, limit: "a power of two up to 65536")
        }
        return UInt64(alignment)
    }

    private static func tensors(_ cursor: inout ByteCursor, count: UInt64, alignment: UInt64) throws -> [Tensor] {
        let path = cursor.file.path
        var tensors: [Tensor] = []
        var offsets: [UInt64] = []
        var names: Set<String> = []
        for index in 0..<count {
            let begin = cursor.position
            let name = try cursor.string("tensor \(index)")
            guard (1...maximumNameBytes).contains(name.utf8.count) else {
                throw ModelError(
                    .headerInvalid, "an impossible name", file: path, field: "tensor \(index)", offset: begin,
                    found: "\(name.utf8.count) bytes", limit: "1 to \(maximumNameBytes)")
            }
            guard names.insert(name).inserted else {
                throw ModelError(.duplicate, "duplicate tensor", file: path, field: name, offset: begin)
            }
            let dimensions = try dimensions(&cursor, name: name)
            let format = try format(&cursor, name: name)
            let bytes = try size(dimensions, format, name: name, cursor)
            let offset = cursor.position
            offsets.append(offset)
            let place = try cursor.integer(UInt64.self, name)
            guard place % alignment == 0 else {
                throw ModelError(
                    .offsetInvalid, "a misaligned tensor", file: path, field: name, offset: offset,
                    found: "\(place)", limit: "a multiple of \(alignment)")
            }
            tensors.append(Tensor(name: name, dimensions: dimensions, format: format, offset: place, bytes: bytes))
        }
        // Cannot overflow: the header's end is bounded.
        let data = (cursor.position + alignment - 1) / alignment * alignment
        for index in tensors.indices {
            let tensor = tensors[index]
            let (begin, overflow) = data.addingReportingOverflow(tensor.offset)
            let (end, overflow2) = begin.addingReportingOverflow(tensor.bytes)
            guard !overflow, !overflow2, end <= cursor.file.size else {
                throw ModelError(
                    .offsetInvalid, "the tensor lies past the file's end", file: path, field: tensor.name,
                    offset: offsets[index], found: "\(tensor.bytes) bytes at \(tensor.offset) after byte \(data)",
                    limit: "at most \(cursor.file.size) bytes")
            }
            tensors[index].offset = begin
        }
        let sorted = tensors.sorted { $0.offset < $1.offset }
        for (first, second) in zip(sorted, sorted.dropFirst()) where first.offset + first.bytes > second.offset {
            throw ModelError(
                .offsetInvalid, "the tensor overlaps \(first.name)", file: path, field: second.name,
                offset: second.offset, limit: "from \(first.offset + first.bytes)")
        }
        return tensors
    }

    private static func dimensions(_ cursor: inout ByteCursor, name: String) throws -> [Int] {
        let offset = cursor.position
        let count = try cursor.integer(UInt32.self, name)
        guard (1...4).contains(count) else {
            throw ModelError(
                .shapeInvalid, "an impossible number of dimensions", file: cursor.file.path, field: name,
                offset: offset, found: "\(count)", limit: "1 to 4")
        }
        return try (0..<count).map { _ in
            let offset = cursor.position
            let value = try cursor.integer(UInt64.self, name)
            guard (1...UInt64(TensorFormat.maximumDimension)).contains(value) else {
                throw ModelError(
                    .shapeInvalid, "an impossible dimension", file: cursor.file.path, field: name, offset: offset,
                    found: "\(Int64(bitPattern: value))", limit: "1 to \(TensorFormat.maximumDimension)")
            }
            return Int(value)
        }
    }

    private static func format(_ cursor: inout ByteCursor, name: String) throws -> TensorFormat {
        let offset = cursor.position
        let type = try cursor.integer(UInt32.self, name)
        switch type {
        case 0: return .f32
        case 1: return .f16
        case 2: return .q4_0
        case 8: return .q8_0
        case 12: return .q4_K
        case 13: return .q5_K
        case 14: return .q6_K
        case 30: return .bf16
        default:
            throw ModelError(
                .unsupported, "a tensor type that is not read", file: cursor.file.path, field: name, offset: offset,
                found: "ggml type \(type)", limit: "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K")
        }
    }

    private static func size(
        _ dimensions: [Int], _ format: TensorFormat, name: String, _ cursor: ByteCursor
    ) throws -> UInt64 {
        guard dimensions[0] % format.blockSize == 0 else {
            throw ModelError(
                .shapeInvalid, "rows that are not whole blocks", file: cursor.file.path, field: name,
                offset: cursor.position, found: "\(dimensions[0]) columns of \(format.rawValue)",
                limit: "a multiple of \(format.blockSize)")
        }
        var bytes = format.rowBytes(columns: dimensions[0])
        for dimension in dimensions.dropFirst() {
            let (product, overflow) = bytes.multipliedReportingOverflow(by: dimension)
            guard !overflow else {
                throw ModelError(
                    .shapeInvalid, "the product of the dimensions overflows", file: cursor.file.path, field: name,
                    offset: cursor.position, found: dimensions.map(String.init).joined(separator: " x "))
            }
            bytes = product
        }
        return UInt64(bytes)
    }
}
