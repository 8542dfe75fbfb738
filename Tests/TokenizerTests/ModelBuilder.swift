@testable import Tokenizer

/// Writes SentencePiece models by hand, broken ones too.
struct ModelBuilder {
    typealias PieceType = SentencePieceModel.PieceType

    struct Piece {
        var name: [UInt8]
        var score: Float
        var type: UInt64
    }

    var pieces: [Piece] = []
    var modelType: UInt64 = 2
    var byteFallback = true
    var beginToken: UInt64 = 1
    var endToken: UInt64 = 2
    var addDummyPrefix = true
    var removeExtraWhitespaces = false
    var treatWhitespaceAsSuffix = false
    var charsmap: [UInt8] = []

    /// A model with `<unk>`, `<s>`, `</s>`, the 256 bytes where wanted, and these normal pieces, best first.
    init(_ normal: [String] = [], byteFallback: Bool = true) {
        self.byteFallback = byteFallback
        add("<unk>", .unknown)
        add("<s>", .control)
        add("</s>", .control)
        if byteFallback {
            for byte in 0...255 {
                let digits = String(byte, radix: 16, uppercase: true)
                add("<0x\(digits.count < 2 ? "0" : "")\(digits)>", .byte)
            }
        }
        for (rank, piece) in normal.enumerated() { add(piece, .normal, score: -Float(rank)) }
    }

    mutating func add(_ name: String, _ type: PieceType, score: Float = 0) {
        pieces.append(Piece(name: Array(name.utf8), score: score, type: UInt64(type.rawValue)))
    }

    var tokenizer: Tokenizer {
        get throws { try Tokenizer(model: bytes) }
    }

    var bytes: [UInt8] {
        var model: [UInt8] = []
        for piece in pieces {
            model += Self.field(
                1,
                Self.field(1, piece.name) + [2 << 3 | 5] + Self.littleEndian(piece.score.bitPattern)
                    + Self.field(3, piece.type))
        }
        model += Self.field(
            2,
            Self.field(3, modelType) + Self.field(24, treatWhitespaceAsSuffix ? 1 : 0)
                + Self.field(35, byteFallback ? 1 : 0) + Self.field(41, beginToken)
                + Self.field(42, endToken))
        model += Self.field(
            3,
            Self.field(2, charsmap) + Self.field(3, addDummyPrefix ? 1 : 0)
                + Self.field(4, removeExtraWhitespaces ? 1 : 0))
        return model
    }

    static func varint(_ value: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        return bytes + [UInt8(rest)]
    }

    static func field(_ number: UInt64, _ value: UInt64) -> [UInt8] {
        varint(number << 3) + varint(value)
    }

    static func field(_ number: UInt64, _ value: [UInt8]) -> [UInt8] {
        varint(number << 3 | 2) + varint(UInt64(value.count)) + value
    }

    private static func littleEndian(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }
}
