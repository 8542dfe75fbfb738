extension Tokenizer {
    /// The tokens of a text, without `<s>`. Control pieces that stand in the text are taken as plain characters.
    ///
    /// Time grows with n log n for a text of n bytes, whatever the text: a queue of the possible merges and a linked list
    /// of the symbols, as in SentencePiece's `bpe_model.cc`.
    package func encode(_ text: String) -> [Int32] {
        let bytes = normalizer.normalize(text)
        var merger = Merger(bytes, vocabulary)
        merger.run()
        return tokens(of: merger)
    }

    private func tokens(of merger: borrowing Merger) -> [Int32] {
        var ids: [Int32] = []
        var previousIsUnknown = false
        merger.forEachPiece { piece, id in
            if let id {
                ids.append(Int32(truncatingIfNeeded: id))
            } else if let byteTokens = vocabulary.byteTokens {
                for byte in piece { ids.append(byteTokens[Int(byte)]) }
            } else if !previousIsUnknown {
                // A run of unknown characters is one token.
                ids.append(vocabulary.unknownToken)
            }
            previousIsUnknown = id == nil
        }
        return ids
    }
}

/// Merges the symbols of one text, best score first and leftmost first among equals, until no two neighbours are a piece.
private struct Merger: ~Copyable {
    /// A run of the text's bytes; empty after it was merged into its left neighbour.
    private struct Symbol {
        var range: Range<Int>
        var previous: Int
        var next: Int
        /// A user-defined piece, which is never merged.
        let frozen: Bool
    }

    private let bytes: [UInt8]
    private let vocabulary: Vocabulary
    private var symbols: [Symbol] = []
    private var queue = MergeQueue()
    /// Of merges that gave an unused piece: how long its left part was. Such a piece is taken apart again at the end.
    private var leftLengths: [Int: Int] = [:]

    init(_ bytes: [UInt8], _ vocabulary: Vocabulary) {
        self.bytes = bytes
        self.vocabulary = vocabulary
        symbols.reserveCapacity(bytes.count)
        var position = 0
        while position < bytes.count {
            let userDefined = userDefinedLength(at: position)
            let length = userDefined ?? Self.characterLength(bytes[position])
            let end = min(position + length, bytes.count)
            symbols.append(
                Symbol(
                    range: position..<end, previous: symbols.count - 1,
                    next: end < bytes.count ? symbols.count + 1 : -1, frozen: userDefined != nil))
            position = end
        }
    }

    mutating func run() {
        for index in symbols.indices.dropFirst() { addPair(index - 1, index) }
        while let merge = queue.popFirst() {
            let left = symbols[merge.left].range
            let right = symbols[merge.right].range
            // A symbol that has grown or gone since leaves entries behind that no longer fit.
            guard !left.isEmpty, !right.isEmpty, left.count + right.count == merge.length else { continue }
            let next = symbols[merge.right].next
            symbols[merge.left].range = left.lowerBound..<right.upperBound
            symbols[merge.left].next = next
            symbols[merge.right].range = right.upperBound..<right.upperBound
            if next >= 0 { symbols[next].previous = merge.left }
            addPair(symbols[merge.left].previous, merge.left)
            addPair(merge.left, next)
        }
    }

    /// Calls `body` with every piece in the text's order, and its id or nil.
    borrowing func forEachPiece(_ body: (ArraySlice<UInt8>, Int?) -> Void) {
        var index = symbols.isEmpty ? -1 : 0
        while index >= 0 {
            takeApart(symbols[index].range, body)
            index = symbols[index].next
        }
    }

    private borrowing func takeApart(_ range: Range<Int>, _ body: (ArraySlice<UInt8>, Int?) -> Void) {
        // Unused pieces nest at most as deep as they are long; a list in place of recursion keeps the stack flat.
        var pending = [range]
        while let range = pending.popLast() {
            let id = vocabulary.find(bytes[range])
            if let id, vocabulary.types[id] == .unused, let length = leftLengths[id], length < range.count {
                pending.append(range.lowerBound + length..<range.upperBound)
                pending.append(range.lowerBound..<range.lowerBound + length)
            } else {
                body(bytes[range], id)
            }
        }
    }

    private mutating func addPair(_ left: Int, _ right: Int) {
        guard left >= 0, right >= 0, !symbols[left].frozen, !symbols[right].frozen else { return }
        let range = symbols[left].range.lowerBound..<symbols[right].range.upperBound
        guard let id = vocabulary.find(bytes[range]) else { return }
        if vocabulary.types[id] == .unused { leftLengths[id] = symbols[left].range.count }
        queue.insert(Merge(score: vocabulary.scores[id], left: left, right: right, length: range.count))
    }

    private func userDefinedLength(at position: Int) -> Int? {
        for length in vocabulary.userDefinedLengths[Int(bytes[position])] where length <= bytes.count - position {
            if let id = vocabulary.find(bytes[position..<position + length]), vocabulary.types[id] == .userDefined {
                return length
            }
        }
        return nil
    }

    /// Bytes of the character that begins with `lead`.
    private static func characterLength(_ lead: UInt8) -> Int {
        switch lead {
        case 0xC0...0xDF: 2
        case 0xE0...0xEF: 3
        case 0xF0...: 4
        default: 1
        }
    }
}
