/// What a SentencePiece `.model` file says (`sentencepiece_model.proto`), checked.
struct SentencePieceModel {
    enum PieceType: UInt8 {
        case normal = 1
        case unknown
        case control
        case userDefined
        case unused
        case byte
    }

    struct Piece {
        /// UTF-8, never empty.
        let text: [UInt8]
        /// Finite; of two possible merges the one with the higher score comes first.
        let score: Float
        let type: PieceType
    }

    /// At least one; the index is the token's id.
    private(set) var pieces: [Piece] = []
    private(set) var byteFallback = false
    private(set) var treatWhitespaceAsSuffix = false
    private(set) var addDummyPrefix = true
    private(set) var removeExtraWhitespaces = true
    private(set) var escapeWhitespaces = true
    private(set) var beginToken: Int32 = 1
    private(set) var endToken: Int32 = 2
    /// What an unknown piece decodes to.
    private(set) var unknownSurface = " \u{2047} "

    /// `TrainerSpec.model_type`: 1 is unigram, which is also the default.
    private var modelType: UInt64 = 1

    /// Far above any vocabulary in use, and small enough for 32-bit ids and tables.
    private static let maximumPieces = 1 << 24

    /// - Parameter bytes: the whole file.
    init(_ bytes: [UInt8]) throws(TokenizerError) {
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let range)): try readPiece(bytes, range)
            case (2, .bytes(let range)): try readTrainer(bytes, range)
            case (3, .bytes(let range)): try readNormalizer(bytes, range)
            case (1...3, _): throw Self.wrongType(of: field, in: "ModelProto")
            default: break
            }
        }
        guard !pieces.isEmpty else { throw TokenizerError("vocabulary_empty", "the model has no pieces") }
        guard modelType == 2 else {
            throw TokenizerError("model_type", "trainer_spec.model_type is \(modelType), only 2 (BPE) is supported")
        }
        for (name, token) in [("bos_id", beginToken), ("eos_id", endToken)] {
            guard pieces.indices.contains(Int(token)) else {
                throw TokenizerError("token_id", "trainer_spec.\(name) is \(token), allowed 0…\(pieces.count - 1)")
            }
            guard pieces[Int(token)].type == .control else {
                throw TokenizerError("token_id", "trainer_spec.\(name) is \(token), which is not a control piece")
            }
        }
    }

    private mutating func readPiece(_ bytes: [UInt8], _ range: Range<Int>) throws(TokenizerError) {
        let id = pieces.count
        guard id < Self.maximumPieces else {
            throw TokenizerError("vocabulary_size", "more than \(Self.maximumPieces) pieces")
        }
        var text: [UInt8] = []
        var score: Float = 0
        var type = PieceType.normal
        var reader = ProtobufReader(bytes, range)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let range)): text = Array(bytes[range])
            case (2, .fixed32(let bits)): score = Float(bitPattern: bits)
            case (3, .varint(let raw)):
                guard let known = UInt8(exactly: raw).flatMap(PieceType.init) else {
                    throw TokenizerError(
                        "piece_type", "offset \(field.offset): piece \(id) of type \(raw), allowed 1…6")
                }
                type = known
            case (1...3, _): throw Self.wrongType(of: field, in: "piece \(id)")
            default: break
            }
        }
        guard !text.isEmpty else {
            throw TokenizerError("piece_empty", "offset \(range.lowerBound): piece \(id) is empty")
        }
        guard String(validating: text, as: UTF8.self) != nil else {
            throw TokenizerError("piece_utf8", "offset \(range.lowerBound): piece \(id) is not UTF-8")
        }
        guard score.isFinite else {
            throw TokenizerError("piece_score", "offset \(range.lowerBound): piece \(id) has the score \(score)")
        }
        pieces.append(Piece(text: text, score: score, type: type))
    }

    private mutating func readTrainer(_ bytes: [UInt8], _ range: Range<Int>) throws(TokenizerError) {
        var reader = ProtobufReader(bytes, range)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (3, .varint(let value)): modelType = value
            case (24, .varint(let value)): treatWhitespaceAsSuffix = value != 0
            case (35, .varint(let value)): byteFallback = value != 0
            case (41, .varint(let value)): beginToken = Int32(truncatingIfNeeded: value)
            case (42, .varint(let value)): endToken = Int32(truncatingIfNeeded: value)
            case (44, .bytes(let range)): unknownSurface = String(decoding: bytes[range], as: UTF8.self)
            case (3, _), (24, _), (35, _), (41, _), (42, _), (44, _):
                throw Self.wrongType(of: field, in: "trainer_spec")
            default: break
            }
        }
    }

    private mutating func readNormalizer(_ bytes: [UInt8], _ range: Range<Int>) throws(TokenizerError) {
        var reader = ProtobufReader(bytes, range)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (2, .bytes(let range)):
                guard range.isEmpty else {
                    throw TokenizerError(
                        "normalizer",
                        "offset \(field.offset): precompiled_charsmap of \(range.count) bytes, only the identity is supported"
                    )
                }
            case (3, .varint(let value)): addDummyPrefix = value != 0
            case (4, .varint(let value)): removeExtraWhitespaces = value != 0
            case (5, .varint(let value)): escapeWhitespaces = value != 0
            case (2...5, _): throw Self.wrongType(of: field, in: "normalizer_spec")
            default: break
            }
        }
    }

    private static func wrongType(of field: ProtobufReader.Field, in message: String) -> TokenizerError {
        TokenizerError(
            "wire_type", "offset \(field.offset): field \(field.number) of \(message) has the wrong wire type")
    }
}
