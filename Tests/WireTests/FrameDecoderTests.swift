import NIOCore
import TestSupport
import Testing

@testable import Wire

extension Frame {
    fileprivate var encoded: [UInt8] {
        var buffer = ByteBuffer()
        write(into: &buffer)
        return Array(buffer.readableBytesView)
    }
}

extension FrameDecoder {
    fileprivate static func failure(of bytes: [UInt8], limit: Int = Frame.maximumPayloadBytes) -> String? {
        var decoder = FrameDecoder(maximumPayloadBytes: limit)
        decoder.feed(ByteBuffer(bytes: bytes))
        do {
            while try decoder.next() != nil {}
            return nil
        } catch {
            return error.code
        }
    }

    /// Feeds `bytes` in pieces of the given sizes (repeated), and collects what comes out.
    fileprivate static func frames(of bytes: [UInt8], pieces: [Int]) throws -> [Frame] {
        var decoder = FrameDecoder(maximumPayloadBytes: Frame.maximumPayloadBytes)
        var frames: [Frame] = []
        var offset = 0
        var turn = 0
        while offset < bytes.count {
            let piece = min(pieces[turn % pieces.count], bytes.count - offset)
            decoder.feed(ByteBuffer(bytes: bytes[offset..<offset + piece]))
            while let frame = try decoder.next() { frames.append(frame) }
            offset += piece
            turn += 1
        }
        #expect(!decoder.isInsideFrame)
        return frames
    }
}

/// A frame with a header of one's own making, its checksum right.
private func forged(
    kind: UInt16, minor: UInt8 = 0, payload: [UInt8] = [], length: UInt32? = nil
) -> [UInt8] {
    var header = FrameHeader(kind: kind, length: length ?? UInt32(payload.count), correlation: 7, epoch: 9)
    header.minorVersion = minor
    var buffer = ByteBuffer()
    header.write(into: &buffer)
    let checksum = buffer.withUnsafeReadableBytes { header in
        payload.withUnsafeBytes { FrameHeader.checksum(encodedHeader: header, payload: $0) }
    }
    buffer.setInteger(checksum, at: FrameHeader.checksumOffset, endianness: .little)
    return Array(buffer.readableBytesView) + payload
}

@Suite struct FrameDecoderTests {
    private let conversation: [Frame] = [
        Frame(.ping),
        Frame(.score, correlation: .max, epoch: .max, payload: ByteBuffer(string: "x")),
        Frame(.generate, correlation: 3, payload: ByteBuffer(repeating: 0xA5, count: 300)),
        Frame(.cancel, correlation: 3),
        Frame(.experts, correlation: 4, epoch: 5, payload: ByteBuffer(repeating: 1, count: 5000)),
    ]

    @Test func headerLiesAsDocumented() {
        let bytes = Frame(
            .experts, correlation: 0x0102_0304_0506_0708, epoch: 9, payload: ByteBuffer(repeating: 0, count: 32)
        )
        .encoded
        #expect(bytes.count == 64)
        #expect(Array(bytes[0..<4]) == Array("TRMN".utf8))
        #expect(Array(bytes[4..<12]) == [1, 0, 33, 0, 32, 0, 0, 0])
        #expect(Array(bytes[16..<32]) == [8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0])
        let covered = Array(bytes[0..<12]) + Array(bytes[16...])
        let checksum = covered.withUnsafeBytes { CRC32C.checksum($0) }
        #expect(Array(bytes[12..<16]) == (0..<4).map { UInt8(truncatingIfNeeded: checksum >> ($0 * 8)) })
    }

    @Test(arguments: [[1], [2], [3], [31], [32], [33], [1, 100], [4096], [1 << 20]])
    func framesComeOutTheSameHoweverTheBytesArrive(pieces: [Int]) throws {
        let bytes = conversation.flatMap(\.encoded)
        #expect(try FrameDecoder.frames(of: bytes, pieces: pieces) == conversation)
    }

    @Test(arguments: 0..<20 as Range<UInt64>)
    func randomFramesInRandomPieces(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let kinds = FrameKind.allCases.filter { $0.payloadBytes.upperBound >= 65_536 }
        let sent = (0..<20).map { _ in
            let kind = kinds[Int.random(in: 0..<kinds.count, using: &random)]
            let length = Int.random(in: kind.payloadBytes.lowerBound...5000, using: &random)
            let payload = ByteBuffer(bytes: (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) })
            return Frame(kind, correlation: random.next(), epoch: random.next(), payload: payload)
        }
        let pieces = (0..<50).map { _ in Int.random(in: 1...3000, using: &random) }
        #expect(try FrameDecoder.frames(of: sent.flatMap(\.encoded), pieces: pieces) == sent, "seed \(seed)")
    }

    /// Pieces that are fed and pieces that are received take turns; whoever takes some frames keeps them.
    @Test(arguments: 0..<20 as Range<UInt64>)
    func receivedAndFedBytesAreOneStream(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let sent = (0..<40).map { number in
            let length = Int.random(in: 32...(number == 20 ? 3 * FrameDecoder.receiveBytes : 20_000), using: &random)
            return Frame(
                .experts, correlation: UInt64(number),
                payload: ByteBuffer(bytes: (0..<length).map { UInt8(truncatingIfNeeded: $0 * 7 + number) }))
        }
        let bytes = sent.flatMap(\.encoded)
        var decoder = FrameDecoder(maximumPayloadBytes: Frame.maximumPayloadBytes)
        var offset = 0
        var found: [Frame] = []
        while offset < bytes.count {
            let piece = min(Int.random(in: 1...100_000, using: &random), bytes.count - offset)
            if Bool.random(using: &random) {
                decoder.feed(ByteBuffer(bytes: bytes[offset..<offset + piece]))
            } else {
                let count = decoder.receive { space in
                    #expect(space.count >= FrameDecoder.receiveBytes)
                    space.copyBytes(from: bytes[offset..<offset + piece])
                    return piece
                }
                #expect(count == piece)
            }
            offset += piece
            while let frame = try decoder.next() { found.append(frame) }
        }
        #expect(!decoder.isInsideFrame)
        #expect(found == sent, "seed \(seed)")
    }

    @Test func memoryThatNobodyHoldsIsUsedAgain() throws {
        var decoder = FrameDecoder(maximumPayloadBytes: Frame.maximumPayloadBytes)
        var places: [UnsafeMutableRawPointer?] = []
        func receive(_ bytes: some Collection<UInt8>) {
            _ = decoder.receive { space in
                places.append(space.baseAddress)
                space.copyBytes(from: bytes)
                return bytes.count
            }
        }
        let bytes = Frame(.experts, payload: ByteBuffer(repeating: 3, count: 26_000)).encoded
        for _ in 0..<3 {
            receive(bytes)
            #expect(try decoder.next() != nil)
            #expect(try decoder.next() == nil)
        }
        // What the channel reads meanwhile does not take it away.
        decoder.feed(ByteBuffer(bytes: bytes))
        #expect(try decoder.next() != nil)
        #expect(try decoder.next() == nil)
        receive(bytes)
        #expect(Set(places).count == 1)
        let held = try decoder.next()
        receive(bytes)
        #expect(Set(places).count == 2)
        #expect(held?.payload.readableBytesView.allSatisfy { $0 == 3 } == true)
    }

    @Test func wrongLengthsAreRefusedBeforeTheirBytesCome() {
        #expect(FrameDecoder.failure(of: forged(kind: 64, length: .max)) == "frame_too_long")
        #expect(FrameDecoder.failure(of: forged(kind: 64, length: 1001), limit: 1000) == "frame_too_long")
        #expect(FrameDecoder.failure(of: forged(kind: 64, length: 1000), limit: 1000) == nil)
        #expect(FrameDecoder.failure(of: forged(kind: 4, length: 1)) == "frame_too_long")
        #expect(FrameDecoder.failure(of: forged(kind: 1, length: 65_537)) == "frame_too_long")
        #expect(FrameDecoder.failure(of: forged(kind: 64)) == "frame_too_short")
        #expect(FrameDecoder.failure(of: forged(kind: 33, length: 31)) == "frame_too_short")
    }

    @Test func unknownKinds() throws {
        #expect(FrameDecoder.failure(of: forged(kind: 999)) == "frame_kind_unknown")
        let known = Frame(.ping, correlation: 1)
        let newer = forged(kind: 999, minor: 1, payload: [1, 2, 3])
        #expect(try FrameDecoder.frames(of: known.encoded + newer + known.encoded, pieces: [7]) == [known, known])
        #expect(FrameDecoder.failure(of: forged(kind: 999, minor: 1, length: .max)) == "frame_too_long")
        var damaged = newer
        damaged[damaged.count - 1] ^= 1
        #expect(FrameDecoder.failure(of: damaged) == "frame_checksum")
    }

    @Test func otherProtocolsAreNamed() {
        #expect(FrameDecoder.failure(of: Array("GET / HTTP/1.1\r\n".utf8)) == "http_request")
        #expect(FrameDecoder.failure(of: Array("POST".utf8)) == "http_request")
        #expect(FrameDecoder.failure(of: Array("HTTP/1.1 400 Bad Request\r\n".utf8)) == "http_response")
        #expect(FrameDecoder.failure(of: [0x16, 0x03, 0x01, 0x02, 0x00]) == "tls_unsupported")
        #expect(FrameDecoder.failure(of: [0, 0, 0, 0]) == "frame_magic")
        var versionTwo = Frame(.ping).encoded
        versionTwo[4] = 2
        #expect(FrameDecoder.failure(of: versionTwo) == "version_unsupported")
    }

    /// Every single-bit error anywhere in a frame is noticed; the bytes are never used.
    @Test func everyFlippedBitIsNoticed() {
        let bytes = Frame(.delta, correlation: 5, payload: ByteBuffer(string: "to be")).encoded
        for bit in 0..<bytes.count * 8 {
            var damaged = bytes
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            var decoder = FrameDecoder(maximumPayloadBytes: Frame.maximumPayloadBytes)
            decoder.feed(ByteBuffer(bytes: damaged))
            #expect((try? decoder.next()).flatMap { $0 } == nil, "bit \(bit)")
        }
    }

    @Test func aFailureIsForEver() {
        var decoder = FrameDecoder()
        decoder.feed(ByteBuffer(bytes: [0, 0, 0, 0]))
        #expect(throws: Failure.self) { try decoder.next() }
        decoder.feed(ByteBuffer(bytes: Frame(.ping).encoded))
        #expect(throws: Failure.self) { try decoder.next() }
    }

    @Test func halfAFrameIsKnownAsSuch() throws {
        var decoder = FrameDecoder()
        let bytes = Frame(.hello, payload: ByteBuffer(string: "abc")).encoded
        for end in 1..<bytes.count {
            decoder.feed(ByteBuffer(bytes: [bytes[end - 1]]))
            #expect(try decoder.next() == nil)
            #expect(decoder.isInsideFrame)
        }
        decoder.feed(ByteBuffer(bytes: [bytes[bytes.count - 1]]))
        #expect(try decoder.next() != nil)
        #expect(!decoder.isInsideFrame)
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func noiseNeverTraps(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var bytes = conversation.flatMap(\.encoded)
        for _ in 0..<Int.random(in: 1...20, using: &random) {
            let place = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<3, using: &random) {
            case 0: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: bytes.remove(at: place)
            default: bytes.insert(UInt8.random(in: 0...255, using: &random), at: place)
            }
        }
        var decoder = FrameDecoder(maximumPayloadBytes: 1 << 20)
        var offset = 0
        while offset < bytes.count {
            let piece = min(Int.random(in: 1...700, using: &random), bytes.count - offset)
            decoder.feed(ByteBuffer(bytes: bytes[offset..<offset + piece]))
            offset += piece
            do {
                while let frame = try decoder.next() {
                    // A frame that survives is one that was sent.
                    #expect(conversation.contains(frame), "seed \(seed)")
                }
            } catch {
                return
            }
        }
    }
}
