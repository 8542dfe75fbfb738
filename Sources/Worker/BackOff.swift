/// Times between attempts: doubled from attempt to attempt, and drawn from the upper half at random, so that those who lost
/// the same peer do not all come back at once.
package struct BackOff: Sendable {
    package let firstMilliseconds: Int
    package let lastMilliseconds: Int
    private var current: Int

    package init(firstMilliseconds: Int, lastMilliseconds: Int) {
        self.firstMilliseconds = firstMilliseconds
        self.lastMilliseconds = lastMilliseconds
        current = firstMilliseconds
    }

    /// Milliseconds until the next attempt.
    package mutating func next(using generator: inout some RandomNumberGenerator) -> Int {
        defer { current = min(current * 2, lastMilliseconds) }
        return Int.random(in: (current / 2)...current, using: &generator)
    }

    /// An attempt succeeded.
    package mutating func reset() {
        current = firstMilliseconds
    }
}
