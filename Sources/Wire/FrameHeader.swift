package import NIOCore

/// The 32 bytes, little-endian, in front of every payload.
///
/// | offset | type | field |
/// |---|---|---|
/// | 0 | 4 bytes | magic `TRMN` |
/// | 4 | u8 | major version |
/// | 5 | u8 | minor version of the sender |
/// | 6 | u16 | kind |
/// | 8 | u32 | payload length in bytes |
/// | 12 | u32 | CRC-32C of bytes 0..<12, 16..<32 and the payload |
/// | 16 | u64 | correlation id |
/// | 24 | u64 | epoch |
package struct FrameHeader: Sendable, Equatable {
    package static let bytes = 32
    package static let checksumOffset = 12
    /// "TRMN" as a little-endian number.
    package static let magic: UInt32 = 0x4E4D_5254
    package static let majorVersion: UInt8 = 1
    package static let minorVersion: UInt8 = 0

    package var minorVersion: UInt8 = Self.minorVersion
    /// Raw, since a newer peer may send kinds that have no name here.
    package var kind: UInt16
    package var length: UInt32
    package var checksum: UInt32
    package var correlation: UInt64
    package var epoch: UInt64

    package init(kind: UInt16, length: UInt32, checksum: UInt32 = 0, correlation: UInt64, epoch: UInt64) {
        self.kind = kind
        self.length = length
        self.checksum = checksum
        self.correlation = correlation
        self.epoch = epoch
    }

    /// Reads a header without moving the reader index; nil while fewer than 32 bytes are there.
    ///
    /// - Throws: `version_unsupported`, or, when the bytes are no frame at all, `http_request`, `http_response`,
    ///   `tls_unsupported` or `frame_magic`.
    package init?(peeking buffer: ByteBuffer) throws(Failure) {
        let found = buffer.withUnsafeReadableBytes { bytes -> (magic: UInt32, rest: Fields?)? in
            guard bytes.count >= 4 else { return nil }
            return (Fields.integer(bytes, 0), bytes.count >= Self.bytes ? Fields(bytes) : nil)
        }
        guard let (magic, fields) = found else { return nil }
        guard magic == Self.magic else {
            throw Self.foreign(start: buffer.getBytes(at: buffer.readerIndex, length: 4) ?? [])
        }
        guard let fields else { return nil }
        guard fields.major == Self.majorVersion else {
            throw Failure(
                code: "version_unsupported",
                message: "frame has major version \(fields.major), this side speaks \(Self.majorVersion)"
            )
        }
        self.init(
            kind: fields.kind, length: fields.length, checksum: fields.checksum, correlation: fields.correlation,
            epoch: fields.epoch)
        minorVersion = fields.minor
    }

    /// What follows the magic, as it stands there.
    private struct Fields {
        let major: UInt8
        let minor: UInt8
        let kind: UInt16
        let length: UInt32
        let checksum: UInt32
        let correlation: UInt64
        let epoch: UInt64

        /// - Parameter bytes: at least ``FrameHeader/bytes``.
        init(_ bytes: UnsafeRawBufferPointer) {
            major = bytes[4]
            minor = bytes[5]
            kind = Self.integer(bytes, 6)
            length = Self.integer(bytes, 8)
            checksum = Self.integer(bytes, FrameHeader.checksumOffset)
            correlation = Self.integer(bytes, 16)
            epoch = Self.integer(bytes, 24)
        }

        static func integer<Value: FixedWidthInteger & BitwiseCopyable>(
            _ bytes: UnsafeRawBufferPointer, _ offset: Int
        ) -> Value {
            Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
        }
    }

    /// What is wrong with a stream that starts with `bytes`: people point HTTP clients at the wrong port every day, and
    /// deserve to be told so.
    private static func foreign(start bytes: [UInt8]) -> Failure {
        let methods = ["GET ", "POST", "PUT ", "HEAD", "OPTI", "DELE", "PATC", "CONN", "TRAC", "PRI "]
        if methods.contains(where: { $0.utf8.elementsEqual(bytes) }) {
            return Failure(code: "http_request", message: "HTTP was spoken to the port of the binary protocol")
        }
        if "HTTP".utf8.elementsEqual(bytes) {
            return Failure(code: "http_response", message: "the peer speaks HTTP; this port is not the binary one")
        }
        if bytes.starts(with: [0x16, 0x03]) {
            return Failure(code: "tls_unsupported", message: "TLS was spoken to a port without TLS")
        }
        let found = bytes.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined(separator: " ")
        return Failure(
            code: "frame_magic", message: "frame starts with bytes \(found), expected 54 52 4d 4e (TRMN)"
        )
    }

    /// Appends the header's 32 bytes.
    package func write(into buffer: inout ByteBuffer) {
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.bytes) { space in
            space.storeBytes(of: Self.magic.littleEndian, as: UInt32.self)
            space.storeBytes(of: Self.majorVersion, toByteOffset: 4, as: UInt8.self)
            space.storeBytes(of: minorVersion, toByteOffset: 5, as: UInt8.self)
            space.storeBytes(of: kind.littleEndian, toByteOffset: 6, as: UInt16.self)
            space.storeBytes(of: length.littleEndian, toByteOffset: 8, as: UInt32.self)
            space.storeBytes(of: checksum.littleEndian, toByteOffset: Self.checksumOffset, as: UInt32.self)
            space.storeBytes(of: correlation.littleEndian, toByteOffset: 16, as: UInt64.self)
            space.storeBytes(of: epoch.littleEndian, toByteOffset: 24, as: UInt64.self)
            return Self.bytes
        }
    }

    /// The checksum over an encoded header of 32 bytes (its own four left out) and a payload in up to two pieces.
    package static func checksum(
        encodedHeader: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer,
        _ body: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) -> UInt32 {
        var checksum = CRC32C()
        checksum.update(UnsafeRawBufferPointer(rebasing: encodedHeader[..<checksumOffset]))
        checksum.update(UnsafeRawBufferPointer(rebasing: encodedHeader[(checksumOffset + 4)..<bytes]))
        checksum.update(payload)
        checksum.update(body)
        return checksum.value
    }
}

extension Frame {
    /// Appends header and payload.
    package func write(into buffer: inout ByteBuffer) {
        Self.write(kind, correlation: correlation, epoch: epoch, into: &buffer) { $0.writeImmutableBuffer(payload) }
    }

    /// Appends a frame whose payload `write` appends.
    ///
    /// - Parameter body: the rest of the payload, which is not appended; it has to follow unchanged.
    /// - Returns: the payload's length, with the body.
    @discardableResult
    package static func write(
        _ kind: FrameKind, correlation: UInt64, epoch: UInt64, into buffer: inout ByteBuffer,
        body: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
        payload write: (inout ByteBuffer) -> Void
    ) -> Int {
        let start = buffer.writerIndex
        FrameHeader(kind: kind.rawValue, length: 0, correlation: correlation, epoch: epoch).write(into: &buffer)
        write(&buffer)
        let offset = start - buffer.readerIndex
        let length = buffer.writerIndex - start - FrameHeader.bytes + body.count
        buffer.withUnsafeMutableReadableBytes { bytes in
            let frame = UnsafeMutableRawBufferPointer(rebasing: bytes[offset...])
            // Senders check the payload against the peer's limit, which is far below 2^32.
            frame.storeBytes(of: UInt32(truncatingIfNeeded: length).littleEndian, toByteOffset: 8, as: UInt32.self)
            let encoded = UnsafeRawBufferPointer(frame)
            let checksum = FrameHeader.checksum(
                encodedHeader: encoded, payload: UnsafeRawBufferPointer(rebasing: encoded[FrameHeader.bytes...]), body)
            frame.storeBytes(of: checksum.littleEndian, toByteOffset: FrameHeader.checksumOffset, as: UInt32.self)
        }
        return length
    }

    /// Appends the header alone; the payload has to follow unchanged.
    package func writeHeader(into buffer: inout ByteBuffer) {
        payload.withUnsafeReadableBytes { payload in
            _ = Self.write(kind, correlation: correlation, epoch: epoch, into: &buffer, body: payload) { _ in }
        }
    }
}
