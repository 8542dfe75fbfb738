import Engine
import Testing

@Suite struct PhiloxTests {
    /// The known answers of Random123 (`kat_vectors`, philox4x32 10).
    @Test func knownAnswers() {
        let zeros = Philox.block(counter: (0, 0, 0, 0), key: (0, 0))
        #expect(zeros == (0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
        let ones = Philox.block(counter: (.max, .max, .max, .max), key: (.max, .max))
        #expect(ones == (0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd))
        let pi = Philox.block(
            counter: (0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344), key: (0xa409_3822, 0x299f_31d0))
        #expect(pi == (0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1))
    }

    @Test func uniformTakesItsBitsFromTheFirstTwoWords() {
        #expect(
            Philox.uniform(seed: 0, choice: 0, position: 0) == Double(0x6627_e8d5_e169_c58d as UInt64 >> 11) * 0x1p-53)
    }

    @Test func everyPartOfTheKeyCounts() {
        let draws = [
            Philox.uniform(seed: 1, choice: 0, position: 5), Philox.uniform(seed: 1 << 32, choice: 0, position: 5),
            Philox.uniform(seed: 1, choice: 1, position: 5), Philox.uniform(seed: 1, choice: 0, position: 6),
            Philox.uniform(seed: 1, choice: 0, position: 1 << 33),
        ]
        #expect(Set(draws).count == draws.count)
        #expect(draws.allSatisfy { (0..<1).contains($0) })
    }
}
