/// Turns tokens into text one at a time and never gives half a character.
///
/// What ``append(_:)`` and ``finish()`` return, put together, is decode(prompt + output) without decode(prompt). Where the
/// prompt ends inside a character, the output's text begins with that character.
package struct Detokenizer: Sendable {
    private let tokenizer: Tokenizer
    /// Bytes of byte pieces that may still become a character: at most 3.
    private var pending: [UInt8] = []
    /// How many of `pending` come from the prompt.
    private var pendingOfPrompt = 0
    /// Nothing but control pieces so far: a space that begins the next piece is the dummy prefix.
    private var atBeginning = true

    /// - Parameter prompt: tokens whose text is not given; empty where the output is decoded alone, as a chat's answer is.
    package init(_ tokenizer: Tokenizer, prompt: [Int32]) {
        self.tokenizer = tokenizer
        for id in prompt { _ = append(id) }
        pendingOfPrompt = pending.count
    }

    /// The text that is certain now; empty while a character is incomplete, and for control pieces.
    package mutating func append(_ id: Int32) -> String {
        guard let type = tokenizer.type(of: id) else { return "" }
        if type == .byte, let byte = tokenizer.vocabulary.bytesOfTokens[id] {
            atBeginning = false
            pending.append(byte)
            return takeCharacters(final: false)
        }
        // A character's bytes stand together: any other piece ends it.
        return takeCharacters(final: true) + surface(of: id, type)
    }

    /// The rest: each byte of an incomplete character as U+FFFD.
    package mutating func finish() -> String {
        takeCharacters(final: true)
    }

    private mutating func surface(of id: Int32, _ type: SentencePieceModel.PieceType) -> String {
        switch type {
        case .control:
            return ""
        case .unknown:
            atBeginning = false
            return tokenizer.unknownSurface
        case .normal, .userDefined, .unused, .byte:
            var piece = tokenizer.vocabulary.piece(Int(id))
            let normalizer = tokenizer.normalizer
            if atBeginning, normalizer.addDummyPrefix || normalizer.removeExtraWhitespaces,
                piece.starts(with: Normalizer.spaceSymbol)
            {
                piece = piece.dropFirst(Normalizer.spaceSymbol.count)
                // Where extra spaces are removed, a lone one leaves the next piece at the beginning too.
                atBeginning = normalizer.removeExtraWhitespaces && piece.isEmpty
            } else {
                atBeginning = false
            }
            return Self.text(of: piece)
        }
    }

    /// The piece with spaces for U+2581.
    private static func text(of piece: ArraySlice<UInt8>) -> String {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(piece.count)
        var rest = piece
        while let byte = rest.first {
            if rest.starts(with: Normalizer.spaceSymbol) {
                bytes.append(UInt8(ascii: " "))
                rest = rest.dropFirst(Normalizer.spaceSymbol.count)
            } else {
                bytes.append(byte)
                rest = rest.dropFirst()
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Takes whole characters off the front of `pending`, and a U+FFFD for each byte that cannot begin one.
    private mutating func takeCharacters(final: Bool) -> String {
        var text = ""
        while !pending.isEmpty {
            switch UTF8Prefix(pending) {
            case .character(let length):
                text += String(decoding: pending.prefix(length), as: UTF8.self)
                drop(length)
            case .incomplete where !final:
                return text
            case .incomplete, .invalid:
                // One that the prompt's text already ends with is not given again.
                if pendingOfPrompt == 0 { text += "\u{FFFD}" }
                drop(1)
            }
        }
        return text
    }

    private mutating func drop(_ count: Int) {
        pending.removeFirst(count)
        pendingOfPrompt = max(0, pendingOfPrompt - count)
    }
}

/// What the first bytes of a buffer are.
private enum UTF8Prefix {
    /// A character of this many bytes.
    case character(Int)
    /// The beginning of a character.
    case incomplete
    /// The first byte begins no character, whatever follows.
    case invalid

    /// Table 3-7 of the Unicode standard: the second byte's range depends on the first.
    init(_ bytes: [UInt8]) {
        guard let lead = bytes.first else {
            self = .incomplete
            return
        }
        let length: Int
        var second: ClosedRange<UInt8> = 0x80...0xBF
        switch lead {
        case 0x00...0x7F: length = 1
        case 0xC2...0xDF: length = 2
        case 0xE0:
            length = 3
            second = 0xA0...0xBF
        case 0xED:
            length = 3
            second = 0x80...0x9F
        case 0xE1...0xEF: length = 3
        case 0xF0:
            length = 4
            second = 0x90...0xBF
        case 0xF1...0xF3: length = 4
        case 0xF4:
            length = 4
            second = 0x80...0x8F
        default:
            self = .invalid
            return
        }
        for (index, byte) in bytes.prefix(length).enumerated().dropFirst() {
            guard (index == 1 ? second : 0x80...0xBF).contains(byte) else {
                self = .invalid
                return
            }
        }
        self = bytes.count >= length ? .character(length) : .incomplete
    }
}
