/// What SentencePiece does to text before it looks for pieces (`normalizer.cc`, with the identity as character map).
struct Normalizer: Sendable {
    /// U+2581, which stands for a space in pieces.
    static let spaceSymbol: [UInt8] = [0xE2, 0x96, 0x81]

    let addDummyPrefix: Bool
    let removeExtraWhitespaces: Bool
    private let escapeWhitespaces: Bool
    private let treatWhitespaceAsSuffix: Bool

    init(_ model: SentencePieceModel) {
        addDummyPrefix = model.addDummyPrefix
        removeExtraWhitespaces = model.removeExtraWhitespaces
        escapeWhitespaces = model.escapeWhitespaces
        treatWhitespaceAsSuffix = model.treatWhitespaceAsSuffix
    }

    /// The text's UTF-8 with spaces as pieces have them.
    func normalize(_ text: String) -> [UInt8] {
        let space = UInt8(ascii: " ")
        let symbol = escapeWhitespaces ? Self.spaceSymbol : [space]
        var input = Array(text.utf8)[...]
        if removeExtraWhitespaces {
            input = input.drop { $0 == space }
            while input.last == space { input.removeLast() }
        }
        guard !input.isEmpty else { return [] }
        var output: [UInt8] = []
        output.reserveCapacity(input.count + input.count / 2 + symbol.count)
        if addDummyPrefix, !treatWhitespaceAsSuffix { output += symbol }
        var previousIsSpace = false
        for byte in input {
            if byte == space {
                if !(removeExtraWhitespaces && previousIsSpace) { output += symbol }
                previousIsSpace = true
            } else {
                output.append(byte)
                previousIsSpace = false
            }
        }
        if addDummyPrefix, treatWhitespaceAsSuffix { output += symbol }
        return output
    }
}
