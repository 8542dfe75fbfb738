/// Tokens in the order of sampling and scoring: the higher logit first, the lower id first where logits are equal.
///
/// A heap of keys, built in linear time, gives as many of the best as somebody asks for.
struct LogitOrder: IteratorProtocol {
    /// Max-heap. A key's upper half orders like the logit, its lower half falls with the id.
    private var keys: [UInt64] = []

    init() {}

    /// - Parameter logits: none of them NaN.
    init(_ logits: UnsafeBufferPointer<Float>) {
        begin(logits)
    }

    /// Begins with other logits, in the memory of the last ones.
    mutating func begin(_ logits: UnsafeBufferPointer<Float>) {
        keys.removeAll(keepingCapacity: true)
        keys.reserveCapacity(logits.count)
        for index in logits.indices { keys.append(Self.key(logits[index], UInt32(truncatingIfNeeded: index))) }
        var root = keys.count / 2
        while root > 0 {
            root -= 1
            sink(root)
        }
    }

    /// The best token that is left.
    mutating func next() -> Int? {
        guard let best = keys.first, let last = keys.popLast() else { return nil }
        if !keys.isEmpty {
            keys[0] = last
            sink(0)
        }
        return Int(~UInt32(truncatingIfNeeded: best))
    }

    /// Equal for -0 and 0, which are equal logits.
    private static func key(_ logit: Float, _ id: UInt32) -> UInt64 {
        let bits = (logit == 0 ? 0 : logit).bitPattern
        let ordered = bits >> 31 == 0 ? bits | 0x8000_0000 : ~bits
        return UInt64(ordered) << 32 | UInt64(~id)
    }

    private mutating func sink(_ start: Int) {
        keys.withUnsafeMutableBufferPointer { keys in
            var parent = start
            let key = keys[start]
            while true {
                var child = 2 * parent + 1
                guard child < keys.count else { break }
                if child + 1 < keys.count, keys[child + 1] > keys[child] { child += 1 }
                guard keys[child] > key else { break }
                keys[parent] = keys[child]
                parent = child
            }
            keys[parent] = key
        }
    }
}
