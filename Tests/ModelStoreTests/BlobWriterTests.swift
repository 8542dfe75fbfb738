import Crypto
import Foundation
@testable import ModelStore
import Testing

@Suite struct BlobWriterTests {
    /// Sizes around those of the pieces that are written, in appends that end anywhere.
    @Test(arguments: [
        0, 1, BlobWriter.pieceBytes - 1, BlobWriter.pieceBytes, BlobWriter.pieceBytes + 1, 3 * BlobWriter.pieceBytes,
        5_000_000,
    ])
    func theFileIsWhatWasAppended(_ size: Int) throws {
        var random = SeededGenerator(seed: UInt64(size))
        let content = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            for index in buffer.indices { buffer[index] = UInt8(truncatingIfNeeded: index &* 0x9E37_79B9 >> 7) }
            count = size
        }
        let directory = try TemporaryDirectory()
        let store = Store(directory: directory.path)
        try store.prepare()
        let writer = try BlobWriter(store: store)
        var start = 0
        while start < size {
            let end = min(size, start + Int.random(in: 1...3_000_000, using: &random))
            try content.withUnsafeBytes { try writer.append(UnsafeRawBufferPointer(rebasing: $0[start..<end])) }
            start = end
        }
        let name = try writer.finish()
        #expect(name == Store.hexadecimal(SHA256.hash(data: content)))
        #expect(try Data(contentsOf: URL(filePath: "\(directory.path)/blobs/\(name)")) == Data(content))
    }
}
