/// The tokenizer as it is stored: a SentencePiece `.model` file
/// (https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto).
enum TokenizerBlob {
    /// A piece, with SentencePiece's type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    struct Piece: Equatable {
        var text: String
        var score: Float
        var type: UInt8
    }

    struct Options {
        var unknown: Int
        var begin: Int
        var end: Int
        var addDummyPrefix: Bool
        var removeExtraWhitespaces: Bool
    }

    /// Larger than any tokenizer; Mistral's have half a megabyte.
    static let maximumBytes = 64 << 20

    /// Writes a model of type BPE whose text is not normalised.
    static func write(_ pieces: [Piece], _ options: Options) -> [UInt8] {
        var model: [UInt8] = []
        for piece in pieces {
            var message: [UInt8] = []
            append(bytes: Array(piece.text.utf8), field: 1, to: &message)
            appendVarint(2 << 3 | 5, to: &message)
            for shift in [0, 8, 16, 24] { message.append(UInt8(truncatingIfNeeded: piece.score.bitPattern >> shift)) }
            append(value: UInt64(piece.type), field: 3, to: &message)
            append(bytes: message, field: 1, to: &model)
        }
        var trainer: [UInt8] = []
        append(value: 2, field: 3, to: &trainer)  // model_type: BPE
        append(value: UInt64(pieces.count), field: 4, to: &trainer)
        append(value: pieces.contains { $0.type == 6 } ? 1 : 0, field: 35, to: &trainer)  // byte_fallback
        append(value: UInt64(options.unknown), field: 40, to: &trainer)
        append(value: UInt64(options.begin), field: 41, to: &trainer)
        append(value: UInt64(options.end), field: 42, to: &trainer)
        append(value: UInt64(bitPattern: -1), field: 43, to: &trainer)  // pad_id: none
        append(bytes: trainer, field: 2, to: &model)
        var normalizer: [UInt8] = []
        append(bytes: Array("identity".utf8), field: 1, to: &normalizer)
        append(value: options.addDummyPrefix ? 1 : 0, field: 3, to: &normalizer)
        append(value: options.removeExtraWhitespaces ? 1 : 0, field: 4, to: &normalizer)
        append(value: 1, field: 5, to: &normalizer)  // escape_whitespaces: spaces are U+2581 in pieces
        append(bytes: normalizer, field: 3, to: &model)
        return model
    }

    private static func append(value: UInt64, field: UInt64, to message: inout [UInt8]) {
        appendVarint(field << 3, to: &message)
        appendVarint(value, to: &message)
    }

    private static func append(bytes: [UInt8], field: UInt64, to message: inout [UInt8]) {
        appendVarint(field << 3 | 2, to: &message)
        appendVarint(UInt64(bytes.count), to: &message)
        message += bytes
    }

    private static func appendVarint(_ value: UInt64, to message: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            message.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        message.append(UInt8(rest))
    }

    /// Reads and checks a model's pieces, so that a broken tokenizer is found at import and not at the first request.
    ///
    /// - Parameter vocabulary: the rows of the embedding.
    /// - Returns: the pieces in the order of their ids.
    /// - Throws: ``ModelError`` `tokenizer_invalid` or `duplicate`, naming the piece.
    @discardableResult
    static func check(_ bytes: [UInt8], vocabulary: Int, file: String) throws -> [Piece] {
        var reader = Reader(bytes: bytes[...], file: file)
        var pieces: [Piece] = []
        var seen: Set<String> = []
        while let (field, content) = try reader.next() {
            guard field == 1 else { continue }
            guard case .bytes(let message) = content else {
                throw reader.failure("a piece of the wrong wire type", field: "piece \(pieces.count)")
            }
            pieces.append(try check(piece: message, index: pieces.count, seen: &seen, file: file))
        }
        guard pieces.count == vocabulary else {
            throw ModelError(
                .tokenizerInvalid, "the vocabulary differs from the embedding's rows", file: file, field: "pieces",
                found: "\(pieces.count)", limit: "\(vocabulary)")
        }
        return pieces
    }

    private static func check(
        piece message: ArraySlice<UInt8>, index: Int, seen: inout Set<String>, file: String
    ) throws -> Piece {
        let field = "piece \(index)"
        var text: ArraySlice<UInt8> = []
        var score: Float = 0
        var type: UInt64 = 1
        var reader = Reader(bytes: message, file: file)
        while let (number, content) = try reader.next() {
            switch (number, content) {
            case (1, .bytes(let bytes)): text = bytes
            case (2, .fixed32(let bits)): score = Float(bitPattern: bits)
            case (3, .varint(let value)): type = value
            case (1...3, _): throw reader.failure("the wrong wire type", field: field)
            default: break
            }
        }
        let offset = UInt64(message.startIndex)
        func failure(_ problem: String, found: String, limit: String) -> ModelError {
            ModelError(
                .tokenizerInvalid, problem, file: file, field: field, offset: offset, found: found, limit: limit)
        }
        guard let piece = String(validating: text, as: UTF8.self), !piece.isEmpty else {
            throw failure("an impossible piece", found: Store.hexadecimal(text.prefix(32)), limit: "UTF-8 text")
        }
        guard seen.insert(piece).inserted else {
            throw ModelError(.duplicate, "duplicate piece", file: file, field: field, offset: offset, found: piece)
        }
        guard score.isFinite else { throw failure("an impossible score", found: "\(score)", limit: "a number") }
        guard (1...6).contains(type) else { throw failure("an unknown type", found: "\(type)", limit: "1 to 6") }
        if type == 6 {
            let digits = text.dropFirst(3).dropLast()
            guard text.count == 6, text.starts(with: "<0x".utf8), text.last == UInt8(ascii: ">"),
                digits.allSatisfy({ (0x30...0x39).contains($0) || (0x41...0x46).contains($0) })
            else { throw failure("an impossible byte piece", found: piece, limit: "<0x00> to <0xFF>") }
        }
        return Piece(text: piece, score: score, type: UInt8(type))
    }

    /// The fields of a protobuf message.
    private struct Reader {
        enum Content {
            case varint(UInt64)
            case fixed32(UInt32)
            case fixed64
            case bytes(ArraySlice<UInt8>)
        }

        var bytes: ArraySlice<UInt8>
        let file: String

        func failure(_ problem: String, field: String? = nil) -> ModelError {
            ModelError(.tokenizerInvalid, problem, file: file, field: field, offset: UInt64(bytes.startIndex))
        }

        /// The next field's number and content; nil at the end.
        mutating func next() throws -> (UInt64, Content)? {
            guard !bytes.isEmpty else { return nil }
            let tag = try varint()
            switch tag & 7 {
            case 0: return (tag >> 3, .varint(try varint()))
            case 1:
                _ = try take(8)
                return (tag >> 3, .fixed64)
            case 2:
                let length = try varint()
                guard length <= UInt64(bytes.count) else { throw failure("a field longer than the rest of the file") }
                return (tag >> 3, .bytes(try take(Int(length))))
            case 5:
                return (tag >> 3, .fixed32(try take(4).reversed().reduce(0) { $0 << 8 | UInt32($1) }))
            default: throw failure("an unknown wire type")
            }
        }

        private mutating func take(_ count: Int) throws -> ArraySlice<UInt8> {
            guard count <= bytes.count else { throw failure("the file ends in the middle of a field") }
            defer { bytes = bytes.dropFirst(count) }
            return bytes.prefix(count)
        }

        private mutating func varint() throws -> UInt64 {
            var value: UInt64 = 0
            for index in 0..<10 {
                guard let byte = bytes.first else { throw failure("a truncated varint") }
                // The tenth byte holds the last bit.
                guard index < 9 || byte <= 1 else { throw failure("an over-long varint") }
                bytes = bytes.dropFirst()
                value |= UInt64(byte & 0x7F) << (7 * index)
                if byte < 0x80 { return value }
            }
            throw failure("an over-long varint")
        }
    }
}
