/// Finds stop strings in text that arrives in pieces, and keeps back what may yet become one. The string whose last
/// byte comes first ends the text; of two that end together, the longer one. That does not depend on how the text was
/// cut.
///
/// Each string is followed by a Knuth–Morris–Pratt automaton over UTF-8 bytes, so that text costs the same however
/// often parts of it look like a beginning. A match begins at a character, since the string does.
package struct StopMatcher: Sendable {
    private struct Pattern: Sendable {
        let bytes: [UInt8]
        /// For each length matched, the next shorter beginning that is also its end.
        let fallback: [Int]
        var matched = 0

        init(_ text: String) {
            bytes = Array(text.utf8)
            var table = [Int](repeating: 0, count: bytes.count + 1)
            var length = 0
            for index in bytes.indices.dropFirst() {
                while length > 0, bytes[index] != bytes[length] { length = table[length] }
                if bytes[index] == bytes[length] { length += 1 }
                table[index + 1] = length
            }
            fallback = table
        }

        /// - Returns: whether the string is complete.
        mutating func advance(_ byte: UInt8) -> Bool {
            while matched > 0, bytes[matched] != byte { matched = fallback[matched] }
            if bytes[matched] == byte { matched += 1 }
            return matched == bytes.count
        }
    }

    private var patterns: [Pattern]
    /// Text that was not given out: never longer than the longest string, and what one token brings.
    private var held: [UInt8] = []
    package private(set) var hasStopped = false

    /// - Parameter stops: not empty strings.
    package init(_ stops: [String]) {
        patterns = stops.filter { !$0.isEmpty }.map(Pattern.init)
    }

    /// - Returns: the text that is certain not to belong to a stop string; after a match, all that came before it.
    package mutating func append(_ text: String) -> String {
        guard !hasStopped else { return "" }
        guard !patterns.isEmpty else { return text }
        for byte in text.utf8 {
            held.append(byte)
            var longest = 0
            for index in patterns.indices where patterns[index].advance(byte) {
                longest = max(longest, patterns[index].bytes.count)
            }
            if longest > 0 {
                hasStopped = true
                held.removeLast(longest)
                return takeHeld(keeping: 0)
            }
        }
        return takeHeld(keeping: patterns.map(\.matched).max() ?? 0)
    }

    /// The text is over: what was kept back is text after all.
    package mutating func finish() -> String {
        hasStopped ? "" : takeHeld(keeping: 0)
    }

    private mutating func takeHeld(keeping count: Int) -> String {
        let text = String(decoding: held.dropLast(count), as: UTF8.self)
        held.removeFirst(held.count - count)
        return text
    }
}
