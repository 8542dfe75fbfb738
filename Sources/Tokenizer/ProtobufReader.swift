/// Reads the fields of one protobuf message out of a buffer, without ever looking past its end.
///
/// Only what SentencePiece's `ModelProto` needs; see protobuf.dev, "Encoding".
struct ProtobufReader {
    /// One field's value, by wire type.
    enum Value {
        case varint(UInt64)
        case fixed32(UInt32)
        case fixed64(UInt64)
        /// A range of the reader's buffer.
        case bytes(Range<Int>)
    }

    struct Field {
        let number: Int
        /// Where the field's tag begins.
        let offset: Int
        let value: Value
    }

    private let buffer: [UInt8]
    private let end: Int
    private var position: Int

    init(_ buffer: [UInt8]) {
        self.init(buffer, buffer.indices)
    }

    /// - Parameter range: the message; within `buffer`.
    init(_ buffer: [UInt8], _ range: Range<Int>) {
        self.buffer = buffer
        self.position = range.lowerBound
        self.end = range.upperBound
    }

    /// The next field, or nil at the end of the message.
    mutating func next() throws(TokenizerError) -> Field? {
        guard position < end else { return nil }
        let offset = position
        let tag = try varint()
        guard let number = Int(exactly: tag >> 3), (1...536_870_911).contains(number) else {
            throw TokenizerError("field_number", "offset \(offset): field number \(tag >> 3), allowed 1…536870911")
        }
        switch tag & 7 {
        case 0:
            return Field(number: number, offset: offset, value: .varint(try varint()))
        case 1:
            return Field(number: number, offset: offset, value: .fixed64(try fixed(bytes: 8)))
        case 2:
            let length = try varint()
            guard length <= UInt64(end - position) else {
                throw TokenizerError(
                    "truncated", "offset \(offset): field \(number) of \(length) bytes, \(end - position) are left")
            }
            let range = position..<position + Int(length)
            position = range.upperBound
            return Field(number: number, offset: offset, value: .bytes(range))
        case 5:
            return Field(
                number: number, offset: offset, value: .fixed32(UInt32(truncatingIfNeeded: try fixed(bytes: 4))))
        case let type:
            throw TokenizerError(
                "wire_type", "offset \(offset): wire type \(type) of field \(number), allowed 0, 1, 2, 5")
        }
    }

    private mutating func varint() throws(TokenizerError) -> UInt64 {
        let start = position
        var value: UInt64 = 0
        for index in 0..<10 {
            guard position < end else {
                throw TokenizerError("truncated", "offset \(start): the message ends inside a varint")
            }
            let byte = buffer[position]
            position += 1
            // The tenth byte holds the 64th bit alone.
            if index == 9, byte > 1 { break }
            value |= UInt64(byte & 0x7F) << UInt64(7 * index)
            if byte < 0x80 { return value }
        }
        throw TokenizerError("varint_overlong", "offset \(start): a varint of more than 64 bits")
    }

    private mutating func fixed(bytes count: Int) throws(TokenizerError) -> UInt64 {
        guard end - position >= count else {
            throw TokenizerError("truncated", "offset \(position): \(count) bytes wanted, \(end - position) are left")
        }
        var value: UInt64 = 0
        for index in 0..<count { value |= UInt64(buffer[position + index]) << UInt64(8 * index) }
        position += count
        return value
    }
}
