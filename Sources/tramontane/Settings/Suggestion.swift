/// Finds what somebody may have meant.
enum Suggestion {
    /// `; did you mean "NEAR"?`, or what is allowed where nothing is near.
    static func text(for word: String, among allowed: some Collection<String>) -> String {
        if let near = nearest(to: word, among: allowed) { return "; did you mean \"\(near)\"?" }
        return "; allowed are \(allowed.sorted().joined(separator: ", "))"
    }

    /// The word at the smallest edit distance, if it is at most a third of the word's length (and 1 for short words).
    static func nearest(to word: String, among allowed: some Collection<String>) -> String? {
        let limit = max(1, word.count / 3)
        return allowed.map { (distance(word, $0), $0) }.filter { $0.0 <= limit }.min { $0 < $1 }?.1
    }

    /// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
    static func distance(_ left: String, _ right: String) -> Int {
        // A word longer than any key is no misspelt key; and the table below is quadratic.
        let a = Array(left.prefix(64)), b = Array(right.prefix(64))
        var beforePrevious: [Int] = []
        var previous = Array(0...b.count)
        for i in a.indices {
            var row = [i + 1]
            for j in b.indices {
                var best = min(previous[j] + (a[i] == b[j] ? 0 : 1), previous[j + 1] + 1, row[j] + 1)
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, beforePrevious[j - 1] + 1) }
                row.append(best)
            }
            beforePrevious = previous
            previous = row
        }
        return previous[b.count]
    }
}
