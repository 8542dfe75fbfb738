import Testing

@testable import Gateway

@Suite struct ChunkedBytesTests {
    @Test(arguments: [(1, "1"), (15, "f"), (16, "10"), (4_096, "1000"), (1_000_000, "f4240")])
    func aChunkSaysHowLongItIs(count: Int, size: String) {
        var chunk = ChunkedBytes()
        // Again, since the memory is used again.
        for _ in 0..<2 {
            #expect(chunk.isEmpty)
            chunk.append { $0 += [UInt8](repeating: UInt8(ascii: "x"), count: count) }
            #expect(!chunk.isEmpty)
            var sent = ""
            chunk.take { sent = String(decoding: $0, as: UTF8.self) }
            #expect(sent == size + "\r\n" + String(repeating: "x", count: count) + "\r\n")
        }
    }
}
