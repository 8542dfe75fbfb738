/// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
///
/// A draw is a function of key and counter alone, so a sampler has no state to lose.
package enum Philox {
    /// Ten rounds over one counter.
    package static func block(
        counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)
    ) -> (UInt32, UInt32, UInt32, UInt32) {
        var (c, k) = (counter, key)
        for _ in 0..<10 {
            let p = 0xD251_1F53 &* UInt64(c.0)
            let q = 0xCD9E_8D57 &* UInt64(c.2)
            c = (
                UInt32(truncatingIfNeeded: q >> 32) ^ c.1 ^ k.0, UInt32(truncatingIfNeeded: q),
                UInt32(truncatingIfNeeded: p >> 32) ^ c.3 ^ k.1, UInt32(truncatingIfNeeded: p)
            )
            k = (k.0 &+ 0x9E37_79B9, k.1 &+ 0xBB67_AE85)
        }
        return c
    }

    /// The uniform number in 0..<1, of 53 bits, that draws the token at `position` of choice `choice`.
    ///
    /// The key is the seed (low word, high word), the counter (position's low word, its high word, choice, 0); the number's
    /// bits are word 0 followed by the upper 21 bits of word 1.
    package static func uniform(seed: UInt64, choice: UInt32, position: Int) -> Double {
        let place = UInt64(truncatingIfNeeded: position)
        let words = block(
            counter: (UInt32(truncatingIfNeeded: place), UInt32(truncatingIfNeeded: place >> 32), choice, 0),
            key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
        return Double(UInt64(words.0) << 21 | UInt64(words.1 >> 11)) * 0x1p-53
    }
}
