package import NIOCore
package import SwiftProtobuf

/// One message on a connection: the header's fields and the payload.
///
/// A received payload is a slice of a read buffer. Nothing may be assumed about the alignment of its bytes in memory.
package struct Frame: Sendable, Equatable {
    /// Largest payload that any peer accepts: 64 MiB, room for 65,535 result rows of 256 columns or 2,730 of 6,144.
    package static let maximumPayloadBytes = 64 << 20
    /// Largest payload accepted from applications: 8 MiB holds a prompt many times the longest context.
    package static let maximumClientPayloadBytes = 8 << 20
    /// Largest payload of the handshake and of errors: 64 KiB, since it is taken from peers that nobody knows yet.
    package static let maximumHandshakePayloadBytes = 64 << 10

    package var kind: FrameKind
    /// Ties answers to requests; the meaning depends on the kind. 0 where there is nothing to tie.
    package var correlation: UInt64
    /// Epoch of the placement the frame belongs to; 0 outside the control and data planes.
    package var epoch: UInt64
    package var payload: ByteBuffer

    package init(_ kind: FrameKind, correlation: UInt64 = 0, epoch: UInt64 = 0, payload: ByteBuffer = ByteBuffer()) {
        self.kind = kind
        self.correlation = correlation
        self.epoch = epoch
        self.payload = payload
    }

    /// A frame that carries a protobuf message.
    package init(_ kind: FrameKind, _ message: some Message, correlation: UInt64 = 0, epoch: UInt64 = 0) {
        self.init(kind, correlation: correlation, epoch: epoch, payload: message.wireBytes())
    }

    /// The error frame that precedes the closing of a connection.
    package static func error(_ failure: Failure) -> Frame {
        var message = ProtoFailure(failure)
        // An error must fit its own limit, whatever text a cause brought along.
        message.code = String(message.code.unicodeScalars.prefix(64))
        message.message = String(message.message.unicodeScalars.prefix(4096))
        return Frame(.error, message)
    }

    /// Decodes the payload as a protobuf message.
    ///
    /// - Throws: `message_malformed` if the bytes are not such a message.
    package func message<M: Message>(_ type: M.Type = M.self) throws(Failure) -> M {
        try M(wireBytes: payload, in: kind)
    }
}

extension Message {
    /// The message's bytes in a buffer of their own.
    package func wireBytes() -> ByteBuffer {
        do {
            let bytes: PayloadBytes = try serializedBytes()
            return bytes.buffer
        } catch {
            // proto3 has no required fields, and every message is built from input that is far below 2 GiB.
            preconditionFailure("\(Self.protoMessageName) did not serialise: \(error)")
        }
    }

    /// Decodes a message. Fields that this version does not know are dropped: nobody forwards them.
    package init(wireBytes buffer: ByteBuffer, in kind: FrameKind) throws(Failure) {
        var options = BinaryDecodingOptions()
        options.discardUnknownFields = true
        do {
            try self.init(serializedBytes: PayloadBytes(buffer: buffer), options: options)
        } catch {
            throw Failure(
                code: "message_malformed",
                message: "payload of \(kind.name) (\(buffer.readableBytes) bytes) is not a \(Self.protoMessageName)"
            )
        }
    }
}

/// Lets SwiftProtobuf read and write a `ByteBuffer` without a copy.
private struct PayloadBytes: SwiftProtobufContiguousBytes {
    var buffer: ByteBuffer

    init(buffer: ByteBuffer) {
        self.buffer = buffer
    }

    init(repeating: UInt8, count: Int) {
        buffer = ByteBuffer(repeating: repeating, count: count)
    }

    init(_ sequence: some Sequence<UInt8>) {
        buffer = ByteBuffer(bytes: sequence)
    }

    var count: Int { buffer.readableBytes }

    func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try buffer.withUnsafeReadableBytes(body)
    }

    mutating func withUnsafeMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer) throws -> R) rethrows -> R {
        try buffer.withUnsafeMutableReadableBytes(body)
    }
}
