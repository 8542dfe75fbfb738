package import NIOCore

/// Cuts a stream of bytes into frames. A value without I/O: feed it what arrived, then ask for frames until it has none.
///
/// A frame's length is checked against the limits before anything is allocated for it. Whole frames inside a fed buffer
/// are slices of it; only a frame that arrives in pieces is copied, and its buffer grows with the bytes that really came.
/// What ``receive(_:)`` reads is in memory of the decoder's own, where a frame that arrives in pieces is put together.
/// After a failure the decoder gives the same failure for ever, as there is no place to resume in a broken stream.
package struct FrameDecoder: Sendable {
    /// Largest payload accepted from now on. Grows after the handshake.
    package var maximumPayloadBytes: Int
    /// Frames of unknown kinds of a newer minor version that were dropped.
    package private(set) var skippedFrames = 0

    /// Fed or received, and not looked at yet. Where it was received, also the beginning of a frame.
    private var input = ByteBuffer()
    /// Whether `input` is the decoder's own memory. Else that is in `spare`, empty.
    private var isReceived = false
    private var spare = ByteBuffer()
    /// The beginning of one frame whose end has not arrived. Never shares its storage.
    private var partial = ByteBuffer()
    private var failure: Failure?

    package init(maximumPayloadBytes: Int = Frame.maximumHandshakePayloadBytes) {
        self.maximumPayloadBytes = maximumPayloadBytes
    }

    /// Whether the beginning of a frame is here and its end is not. Meaningful when ``next()`` has returned nil.
    package var isInsideFrame: Bool { partial.readableBytes > 0 || input.readableBytes > 0 }

    /// Takes bytes that arrived.
    package mutating func feed(_ bytes: ByteBuffer) {
        guard failure == nil else { return }
        guard input.readableBytes == 0 else {
            input.writeImmutableBuffer(bytes)
            return
        }
        if isReceived {
            swap(&input, &spare)
            isReceived = false
        }
        input = bytes
    }

    /// Room that ``receive(_:)`` offers: a few tensor frames of a decode step.
    package static let receiveBytes = 256 << 10

    /// Lets `read` put bytes that arrived behind those that wait for the rest of their frame. It gets at least
    /// ``receiveBytes`` of room, and returns how many of them it has used. The memory is used again as soon as nobody holds a
    /// frame of it.
    ///
    /// - Returns: what `read` returned.
    package mutating func receive(_ read: (UnsafeMutableRawBufferPointer) -> Int) -> Int {
        guard failure == nil else { return 0 }
        if !isReceived, input.readableBytes == 0 {
            input = spare
            spare = ByteBuffer()
            isReceived = true
        }
        // Twice as much as there is at the most, so that this grows with the bytes that really came too.
        let room = max(Self.receiveBytes, min(input.readableBytes, maximumPayloadBytes))
        if input.readableBytes > 0 {
            if input.writableBytes < Self.receiveBytes { input.discardReadBytes() }
        } else if input.capacity > 4 * Self.receiveBytes {
            input = ByteBuffer()
        } else {
            input.clear()
        }
        return input.writeWithUnsafeMutableBytes(minimumWritableBytes: room, read)
    }

    /// The next whole frame, or nil if more bytes are needed.
    ///
    /// - Throws: what `FrameHeader(peeking:)` throws, `frame_kind_unknown`, `frame_too_long`, `frame_too_short` or
    ///   `frame_checksum`.
    package mutating func next() throws(Failure) -> Frame? {
        if let failure { throw failure }
        do {
            while let frame = try cut() {
                if let frame = try frame.checked() { return frame }
                skippedFrames &+= 1
            }
            return nil
        } catch {
            failure = error
            input = ByteBuffer()
            spare = ByteBuffer()
            partial = ByteBuffer()
            throw error
        }
    }

    private mutating func cut() throws(Failure) -> RawFrame? {
        if partial.readableBytes == 0 {
            if let header = try FrameHeader(peeking: input) {
                let total = try FrameHeader.bytes + header.checkedLength(limit: maximumPayloadBytes)
                if let frame = input.readSlice(length: total) {
                    return RawFrame(header: header, bytes: frame)
                }
            }
            if !isReceived { move(upTo: input.readableBytes) }
            return nil
        }
        if partial.readableBytes < FrameHeader.bytes {
            move(upTo: FrameHeader.bytes - partial.readableBytes)
        }
        guard let header = try FrameHeader(peeking: partial) else { return nil }
        let total = try FrameHeader.bytes + header.checkedLength(limit: maximumPayloadBytes)
        move(upTo: total - partial.readableBytes)
        guard partial.readableBytes == total else { return nil }
        defer { partial = ByteBuffer() }
        return RawFrame(header: header, bytes: partial)
    }

    private mutating func move(upTo count: Int) {
        if let piece = input.readSlice(length: min(count, input.readableBytes)), piece.readableBytes > 0 {
            partial.writeImmutableBuffer(piece)
        }
        // The fed buffer is not kept alive by an empty rest.
        if !isReceived, input.readableBytes == 0 { input = ByteBuffer() }
    }
}

/// A frame's bytes, complete, not yet checked against its checksum.
private struct RawFrame {
    var header: FrameHeader
    var bytes: ByteBuffer

    /// The frame, or nil if it is to be skipped.
    func checked() throws(Failure) -> Frame? {
        var payload = bytes
        payload.moveReaderIndex(forwardBy: FrameHeader.bytes)
        let checksum = bytes.withUnsafeReadableBytes {
            FrameHeader.checksum(
                encodedHeader: $0, payload: UnsafeRawBufferPointer(rebasing: $0[FrameHeader.bytes...]))
        }
        guard checksum == header.checksum else {
            throw Failure(
                code: "frame_checksum",
                message: "frame of kind \(header.kind) and \(header.length) payload bytes has checksum "
                    + "\(header.checksum), its bytes give \(checksum)"
            )
        }
        guard let kind = FrameKind(rawValue: header.kind) else { return nil }
        return Frame(kind, correlation: header.correlation, epoch: header.epoch, payload: payload)
    }
}

extension FrameHeader {
    /// The payload's length, if the kind and the connection allow it.
    fileprivate func checkedLength(limit: Int) throws(Failure) -> Int {
        guard let kind = FrameKind(rawValue: kind) else {
            guard minorVersion > FrameHeader.minorVersion else {
                throw Failure(
                    code: "frame_kind_unknown",
                    message: "frame has kind \(kind), which version \(FrameHeader.majorVersion).\(minorVersion) "
                        + "does not have"
                )
            }
            return try check(range: 0...limit, name: String(self.kind))
        }
        let range = kind.payloadBytes
        return try check(range: min(range.lowerBound, limit)...min(range.upperBound, limit), name: kind.name)
    }

    private func check(range: ClosedRange<Int>, name: @autoclosure () -> String) throws(Failure) -> Int {
        let length = Int(length)
        guard length <= range.upperBound else {
            throw Failure(
                code: "frame_too_long",
                message: "frame \(name()) has a payload of \(length) bytes, at most \(range.upperBound) are allowed"
            )
        }
        guard length >= range.lowerBound else {
            throw Failure(
                code: "frame_too_short",
                message: "frame \(name()) has a payload of \(length) bytes, at least \(range.lowerBound) are due"
            )
        }
        return length
    }
}
