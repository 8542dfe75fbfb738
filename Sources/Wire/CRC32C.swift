import CCRC32C

/// The Castagnoli checksum (RFC 3720, appendix B.4; reflected polynomial 0x82F63B78, initial value and final xor all ones).
///
/// The processor's instruction where it has one; else slicing by 16: sixteen tables let one round consume 16 bytes with
/// independent loads.
package struct CRC32C: Sendable {
    private static let tables: [UInt32] = {
        var tables = [UInt32](repeating: 0, count: 16 * 256)
        for byte in 0..<256 {
            var value = UInt32(byte)
            for _ in 0..<8 {
                value = (value >> 1) ^ (value & 1 == 1 ? 0x82F6_3B78 : 0)
            }
            tables[byte] = value
        }
        for slice in 1..<16 {
            for byte in 0..<256 {
                let previous = tables[(slice - 1) * 256 + byte]
                tables[slice * 256 + byte] = (previous >> 8) ^ tables[Int(previous & 0xFF)]
            }
        }
        return tables
    }()

    private var state: UInt32 = .max

    package init() {}

    /// The checksum of everything that was fed so far.
    package var value: UInt32 { ~state }

    /// Whether the processor computes it.
    package static let hasInstruction = tc_crc32c_available()

    /// Takes `bytes` into the checksum. The result does not depend on how the input is cut.
    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard Self.hasInstruction else { return updatePortably(bytes) }
        guard let base = bytes.baseAddress else { return }
        state = tc_crc32c(state, base, bytes.count)
    }

    /// The same, without the processor's instruction.
    package mutating func updatePortably(_ bytes: UnsafeRawBufferPointer) {
        state = Self.tables.withUnsafeBufferPointer { Self.advance(state, bytes, tables: $0) }
    }

    package static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = CRC32C()
        checksum.update(bytes)
        return checksum.value
    }

    /// Indices into `tables` are at most 15 * 256 + 255 by construction, and offsets into `bytes` are below its count,
    /// so nothing here depends on the bytes' values.
    private static func advance(
        _ initial: UInt32,
        _ bytes: UnsafeRawBufferPointer,
        tables: UnsafeBufferPointer<UInt32>
    ) -> UInt32 {
        guard let base = bytes.baseAddress, let table = tables.baseAddress else { return initial }
        var crc = initial
        var offset = 0
        let count = bytes.count
        while count &- offset >= 16 {
            let low =
                UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) ^ UInt64(crc)
            let high = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: offset &+ 8, as: UInt64.self))
            let first = fold(low, table + 8 * 256)
            let second = fold(high, table)
            crc = first ^ second
            offset &+= 16
        }
        while offset < count {
            let byte = base.load(fromByteOffset: offset, as: UInt8.self)
            crc = (crc >> 8) ^ table[Int(truncatingIfNeeded: (crc ^ UInt32(byte)) & 0xFF)]
            offset &+= 1
        }
        return crc
    }

    /// Eight table look-ups for eight bytes; the first byte is furthest from the end and so uses the last table.
    @inline(__always)
    private static func fold(_ word: UInt64, _ table: UnsafePointer<UInt32>) -> UInt32 {
        let a = table[7 &* 256 &+ Int(truncatingIfNeeded: word & 0xFF)]
        let b = table[6 &* 256 &+ Int(truncatingIfNeeded: (word >> 8) & 0xFF)]
        let c = table[5 &* 256 &+ Int(truncatingIfNeeded: (word >> 16) & 0xFF)]
        let d = table[4 &* 256 &+ Int(truncatingIfNeeded: (word >> 24) & 0xFF)]
        let e = table[3 &* 256 &+ Int(truncatingIfNeeded: (word >> 32) & 0xFF)]
        let f = table[2 &* 256 &+ Int(truncatingIfNeeded: (word >> 40) & 0xFF)]
        let g = table[1 &* 256 &+ Int(truncatingIfNeeded: (word >> 48) & 0xFF)]
        let h = table[Int(truncatingIfNeeded: word >> 56)]
        return (a ^ b) ^ (c ^ d) ^ (e ^ f) ^ (g ^ h)
    }
}
