/// The pieces of a model, found by their bytes or by their ids. Shared by all copies of a ``Tokenizer``.
final class Vocabulary: Sendable {
    typealias PieceType = SentencePieceModel.PieceType

    let count: Int
    let scores: [Float]
    let types: [PieceType]
    /// The id of the one unknown piece.
    let unknownToken: Int32
    /// The id of each byte's piece; nil when the model has no byte fallback.
    let byteTokens: [Int32]?
    /// For each byte piece its byte, by id.
    let bytesOfTokens: [Int32: UInt8]
    /// Length of the longest piece that text can give, in bytes.
    let longestPiece: Int
    /// Lengths in bytes of the user-defined pieces, longest first, by the piece's first byte.
    let userDefinedLengths: [[Int]]
    /// Ids of control pieces by name.
    let controlTokens: [[UInt8]: Int32]

    /// All pieces' bytes, one after the other; piece `i` is `offsets[i]..<offsets[i + 1]`.
    private let bytes: [UInt8]
    private let offsets: [Int]
    /// Open addressing over the pieces that text can give (normal, user-defined, unused): an id, or −1 for an empty slot.
    /// At most half full, so that a probe ends.
    private let table: [Int32]

    init(_ model: SentencePieceModel) throws(TokenizerError) {
        let pieces = model.pieces
        var offsets = [0]
        var bytes: [UInt8] = []
        offsets.reserveCapacity(pieces.count + 1)
        for piece in pieces {
            bytes += piece.text
            offsets.append(bytes.count)
        }
        let reserved = try Self.reservedPieces(of: model)
        unknownToken = reserved.unknown
        controlTokens = reserved.control
        byteTokens = reserved.byteTokens
        bytesOfTokens = reserved.bytes

        var slots = 16
        while slots < 2 * pieces.count { slots *= 2 }
        var table = [Int32](repeating: -1, count: slots)
        var longest = 0
        var userDefined = [Set<Int>](repeating: [], count: 256)
        for (id, piece) in pieces.enumerated() {
            // Reserved pieces share the namespace, but text never gives them.
            var slot = Self.hash(piece.text[...]) & (slots - 1)
            while table[slot] >= 0 {
                let other = Int(table[slot])
                if pieces[other].text == piece.text {
                    throw TokenizerError("piece_duplicate", "piece \(id) is the same as piece \(other)")
                }
                slot = (slot + 1) & (slots - 1)
            }
            table[slot] = Int32(id)
            if Self.isText(piece.type) { longest = max(longest, piece.text.count) }
            if piece.type == .userDefined { userDefined[Int(piece.text[0])].insert(piece.text.count) }
        }
        self.table = table
        self.bytes = bytes
        self.offsets = offsets
        count = pieces.count
        scores = pieces.map(\.score)
        types = pieces.map(\.type)
        longestPiece = longest
        userDefinedLengths = userDefined.map { $0.sorted(by: >) }
    }

    /// The bytes of piece `id`, which must be one.
    func piece(_ id: Int) -> ArraySlice<UInt8> {
        bytes[offsets[id]..<offsets[id + 1]]
    }

    /// The piece that text may become, or nil: control, byte and unknown pieces are never found here.
    func find(_ text: ArraySlice<UInt8>) -> Int? {
        guard text.count <= longestPiece else { return nil }
        var slot = Self.hash(text) & (table.count - 1)
        while table[slot] >= 0 {
            let id = Int(table[slot])
            if offsets[id + 1] - offsets[id] == text.count, piece(id).elementsEqual(text) {
                return Self.isText(types[id]) ? id : nil
            }
            slot = (slot + 1) & (table.count - 1)
        }
        return nil
    }

    private static func isText(_ type: PieceType) -> Bool {
        switch type {
        case .normal, .userDefined, .unused: true
        case .unknown, .control, .byte: false
        }
    }

    /// FNV-1a.
    private static func hash(_ text: ArraySlice<UInt8>) -> Int {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in text { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return Int(truncatingIfNeeded: hash ^ (hash >> 32))
    }

    private static func reservedPieces(
        of model: SentencePieceModel
    ) throws(TokenizerError) -> (unknown: Int32, control: [[UInt8]: Int32], byteTokens: [Int32]?, bytes: [Int32: UInt8])
    {
        var unknown: Int32?
        var control: [[UInt8]: Int32] = [:]
        var tokens = [Int32](repeating: -1, count: 256)
        var bytes: [Int32: UInt8] = [:]
        for (index, piece) in model.pieces.enumerated() {
            let id = Int32(truncatingIfNeeded: index)
            switch piece.type {
            case .unknown:
                if let first = unknown {
                    throw TokenizerError("piece_unknown", "pieces \(first) and \(id) are both of the type unknown")
                }
                unknown = id
            case .control:
                control[piece.text] = id
            case .byte:
                guard let byte = byteValue(piece.text) else {
                    throw TokenizerError("byte_piece", "piece \(id) is of the type byte and not named <0x00>…<0xFF>")
                }
                tokens[Int(byte)] = id
                bytes[id] = byte
            case .normal, .userDefined, .unused: break
            }
        }
        guard let unknown else { throw TokenizerError("piece_unknown", "no piece is of the type unknown") }
        guard model.byteFallback == !bytes.isEmpty, bytes.isEmpty || !tokens.contains(-1) else {
            throw TokenizerError(
                "byte_pieces",
                "\(bytes.count) byte pieces with byte_fallback \(model.byteFallback), allowed 256 with it, 0 without")
        }
        return (unknown, control, bytes.isEmpty ? nil : tokens, bytes)
    }

    /// The byte of a piece named `<0x00>` to `<0xFF>`, capitals only, as SentencePiece writes them.
    private static func byteValue(_ name: [UInt8]) -> UInt8? {
        guard name.count == 6, name.starts(with: "<0x".utf8), name[5] == UInt8(ascii: ">") else { return nil }
        var value: UInt8 = 0
        for digit in name[3..<5] {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | (digit - UInt8(ascii: "0"))
            case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | (digit - UInt8(ascii: "A") + 10)
            default: return nil
            }
        }
        return value
    }
}
