import NIOCore

/// What an encoded request of the client plane would be in memory, counted without decoding it.
///
/// Where the bytes are no such message, the count ends: decoding says so.
struct EncodedRequest {
    private(set) var stops = 0
    private(set) var logitBiases = 0
    private(set) var messages = 0
    /// Of all forms of prompt together. A chat's lengths and roles count too: they are a few bytes of each message.
    private(set) var promptBytes = 0

    /// - Parameter payload: a `GenerateRequest`.
    init(generate payload: ByteBuffer) {
        let bytes = payload.readableBytesView
        var fields = EncodedFields(bytes, bytes.indices)
        while let field = fields.next() {
            switch field.number {
            // Numbers of protos/tramontane/v1/client.proto: text, tokens, then chat.
            case 2, 3: promptBytes += field.content.count
            case 4:
                promptBytes += field.content.count
                var parts = EncodedFields(bytes, field.content)
                while let part = parts.next() {
                    if part.number == 1 { messages += 1 }
                }
            case 10: logitBiases += 1
            case 12: stops += 1
            default: break
            }
        }
    }

    /// - Parameter payload: a `ScoreRequest`.
    init(score payload: ByteBuffer) {
        let bytes = payload.readableBytesView
        var fields = EncodedFields(bytes, bytes.indices)
        while let field = fields.next() {
            // Text, tokens.
            if (2...3).contains(field.number) { promptBytes += field.content.count }
        }
    }
}

/// Walks over the fields of one protobuf message (protobuf.dev, "Encoding"), without ever looking past its end.
private struct EncodedFields {
    private let bytes: ByteBufferView
    private let end: Int
    private var position: Int

    /// - Parameter range: the message; within `bytes`.
    init(_ bytes: ByteBufferView, _ range: Range<Int>) {
        self.bytes = bytes
        position = range.lowerBound
        end = range.upperBound
    }

    /// The next field's number, and where its content is if it has a length; nil at the end.
    mutating func next() -> (number: UInt64, content: Range<Int>)? {
        guard let tag = varint() else { return nil }
        var length = 0
        switch tag & 7 {
        case 0: guard varint() != nil else { return nil }
        case 1: length = 8
        case 2:
            guard let bytes = varint().flatMap({ Int(exactly: $0) }) else { return nil }
            length = bytes
        case 5: length = 4
        // The ends of a group, whose fields are walked over as if they were the message's.
        default: break
        }
        guard length <= end - position else { return nil }
        defer { position += length }
        return (tag >> 3, position..<position + (tag & 7 == 2 ? length : 0))
    }

    private mutating func varint() -> UInt64? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard position < end else { return nil }
            let byte = bytes[position]
            position += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        return nil
    }
}
