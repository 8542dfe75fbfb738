import TestSupport
import Testing

@testable import Wire

@Suite struct CRC32CTests {
    private func checksum(_ bytes: [UInt8]) -> UInt32 {
        bytes.withUnsafeBytes { CRC32C.checksum($0) }
    }

    /// The vectors of RFC 3720, appendix B.4, and the customary check value.
    @Test func publishedVectors() {
        #expect(checksum([]) == 0)
        #expect(checksum(Array("123456789".utf8)) == 0xE306_9283)
        #expect(checksum([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(checksum([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(checksum(Array(0..<32)) == 0x46DD_794E)
        #expect(checksum(Array((0..<32).reversed())) == 0x113F_DB5C)
    }

    /// Bit by bit, straight from the definition.
    private func slow(_ bytes: [UInt8]) -> UInt32 {
        var crc = UInt32.max
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = (crc >> 1) ^ (crc & 1 == 1 ? 0x82F6_3B78 : 0) }
        }
        return ~crc
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func equalsTheDefinitionHoweverTheInputIsCut(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for length in 0..<200 {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            let cut = Int.random(in: 0...length, using: &random)
            var crc = CRC32C()
            Array(bytes[..<cut]).withUnsafeBytes { crc.update($0) }
            Array(bytes[cut...]).withUnsafeBytes { crc.update($0) }
            #expect(crc.value == slow(bytes), "seed \(seed), length \(length), cut \(cut)")
        }
    }

    /// Long inputs go through the processor's instructions in several runs side by side; the tables know nothing of that.
    @Test(arguments: [1, 2, 3] as [UInt64])
    func instructionAndTablesAgree(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let bytes = (0..<20_000).map { _ in UInt8.random(in: 0...255, using: &random) }
        for length in [0, 7, 255, 256, 257, 511, 512, 513, 3071, 3072, 3073, 6144, 19_991] {
            let start = Int.random(in: 0...8, using: &random)
            var (crc, portable) = (CRC32C(), CRC32C())
            bytes.withUnsafeBytes { whole in
                let part = UnsafeRawBufferPointer(rebasing: whole[start..<start + length])
                crc.update(part)
                portable.updatePortably(part)
            }
            #expect(crc.value == portable.value, "seed \(seed), length \(length)")
        }
    }
}
