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
        let start = buffer.readerIndex
        guard let magic = buffer.getInteger(at: start, endianness: .little, as: UInt32.self) else { return nil }
        guard magic == Self.magic else { throw Self.foreign(start: buffer.getBytes(at: start, length: 4) ?? []) }
        guard buffer.readableBytes >= Self.bytes,
            let (major, minor, kind, length, checksum, correlation, epoch) = buffer.peekHeaderFields()
        else { return nil }
        guard major == Self.majorVersion else {
            throw Failure(
                code: "version_unsupported",
                message: "frame has major version \(major), this side speaks \(Self.majorVersion)"
            )
        }
        self.init(kind: kind, length: length, checksum: checksum, correlation: correlation, epoch: epoch)
        minorVersion = minor
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
        buffer.writeMultipleIntegers(
            Self.magic, Self.majorVersion, minorVersion, kind, length, checksum, correlation, epoch,
            endianness: .little
        )
    }

    /// The checksum over an encoded header of 32 bytes (its own four left out) and `payload`.
    package static func checksum(encodedHeader: UnsafeRawBufferPointer, payload: ByteBuffer) -> UInt32 {
        var checksum = CRC32C()
        checksum.update(UnsafeRawBufferPointer(rebasing: encodedHeader.prefix(checksumOffset)))
        checksum.update(UnsafeRawBufferPointer(rebasing: encodedHeader.prefix(bytes).dropFirst(checksumOffset + 4)))
        payload.withUnsafeReadableBytes { checksum.update($0) }
        return checksum.value
    }
}

extension Frame {
    /// Appends header and payload.
    package func write(into buffer: inout ByteBuffer) {
        writeHeader(into: &buffer)
        buffer.writeImmutableBuffer(payload)
    }

    /// Appends the header alone; the payload has to follow unchanged.
    package func writeHeader(into buffer: inout ByteBuffer) {
        let start = buffer.writerIndex
        let header = FrameHeader(
            kind: kind.rawValue,
            // Senders check the payload against the peer's limit, which is far below 2^32.
            length: UInt32(truncatingIfNeeded: payload.readableBytes),
            correlation: correlation,
            epoch: epoch
        )
        header.write(into: &buffer)
        let offset = start - buffer.readerIndex
        let checksum = buffer.withUnsafeReadableBytes { bytes in
            FrameHeader.checksum(
                encodedHeader: UnsafeRawBufferPointer(rebasing: bytes.dropFirst(offset)), payload: payload)
        }
        buffer.setInteger(checksum, at: start + FrameHeader.checksumOffset, endianness: .little)
    }
}

extension ByteBuffer {
    fileprivate func peekHeaderFields() -> (UInt8, UInt8, UInt16, UInt32, UInt32, UInt64, UInt64)? {
        var copy = self
        copy.moveReaderIndex(forwardBy: 4)
        return copy.readMultipleIntegers(
            endianness: .little,
            as: (UInt8, UInt8, UInt16, UInt32, UInt32, UInt64, UInt64).self
        )
    }
}
