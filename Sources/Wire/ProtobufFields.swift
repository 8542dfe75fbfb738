import NIOCore
import SwiftProtobuf

/// The fields of a protobuf message (protobuf.dev, "Encoding"), in their order, without an object for any of them: for messages
/// of which there is one in every step.
struct FieldReader {
    enum Value {
        case varint(UInt64)
        case bytes(UnsafeRawBufferPointer)
        /// Four or eight bytes, which no field read here has.
        case fixed

        /// Calls `body` with each number of a repeated field, packed or not.
        ///
        /// - Returns: whether the bytes were numbers.
        func eachVarint(_ body: (UInt64) -> Void) -> Bool {
            switch self {
            case .varint(let value):
                body(value)
                return true
            case .bytes(let bytes):
                var rest = FieldReader(bytes)
                while !rest.isAtEnd {
                    guard let value = rest.varint() else { return false }
                    body(value)
                }
                return true
            case .fixed:
                return true
            }
        }
    }

    struct Field {
        let number: Int
        let value: Value
    }

    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    /// Nil from `next` means the end only where this is true; else the bytes are no message.
    var isAtEnd: Bool { position == bytes.count }

    /// The next field; nil at the end, and where what follows is no field.
    mutating func next() -> Field? {
        guard position < bytes.count else { return nil }
        let start = position
        guard let tag = varint(), tag <= UInt64(UInt32.max), tag >> 3 > 0, let value = value(wireType: tag & 7) else {
            position = start
            return nil
        }
        return Field(number: Int(tag >> 3), value: value)
    }

    private mutating func value(wireType: UInt64) -> Value? {
        switch wireType {
        case 0:
            return varint().map { .varint($0) }
        case 1:
            return skip(8)
        case 2:
            guard let length = varint(), length <= UInt64(bytes.count - position) else { return nil }
            let slice = UnsafeRawBufferPointer(rebasing: bytes[position..<position + Int(length)])
            position += Int(length)
            return .bytes(slice)
        case 5:
            return skip(4)
        default:
            return nil
        }
    }

    private mutating func skip(_ count: Int) -> Value? {
        guard count <= bytes.count - position else { return nil }
        position += count
        return .fixed
    }

    private mutating func varint() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < bytes.count {
            let byte = bytes[position]
            position += 1
            // The tenth byte holds the 64th bit alone.
            if shift == 63, byte > 1 { return nil }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }
}

/// Writes the fields of a protobuf message, or counts their bytes. Fields of value 0 are left out, as proto3 has it.
struct FieldWriter {
    /// Nil where bytes are only counted.
    private let target: UnsafeMutableRawPointer?
    private(set) var count = 0

    fileprivate init(_ target: UnsafeMutableRawPointer?) {
        self.target = target
    }

    /// How protobuf encodes an `int32`.
    static func bits(_ value: Int32) -> UInt64 { UInt64(bitPattern: Int64(value)) }

    mutating func write(_ number: Int, _ value: UInt64) {
        guard value != 0 else { return }
        varint(UInt64(number) << 3)
        varint(value)
    }

    mutating func write<Element>(_ number: Int, packed elements: ArraySlice<Element>, _ bits: (Element) -> UInt64) {
        guard !elements.isEmpty else { return }
        write(number) { fields in
            for element in elements { fields.varint(bits(element)) }
        }
    }

    /// A message within the message.
    mutating func write(_ number: Int, _ body: (inout FieldWriter) -> Void) {
        var length = FieldWriter(nil)
        body(&length)
        varint(UInt64(number) << 3 | 2)
        varint(UInt64(length.count))
        if target == nil { count += length.count } else { body(&self) }
    }

    /// All fields of another message.
    mutating func append(_ message: some Message) {
        let bytes = message.wireBytes()
        bytes.withUnsafeReadableBytes { bytes in
            if let target {
                UnsafeMutableRawBufferPointer(start: target + count, count: bytes.count).copyMemory(from: bytes)
            }
            count += bytes.count
        }
    }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            put(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        put(UInt8(truncatingIfNeeded: rest))
    }

    private mutating func put(_ byte: UInt8) {
        if let target { target.storeBytes(of: byte, toByteOffset: count, as: UInt8.self) }
        count += 1
    }
}

extension ByteBuffer {
    /// Appends the fields that `body` writes; it is called twice, once to count them.
    mutating func writeFields(_ body: (inout FieldWriter) -> Void) {
        var length = FieldWriter(nil)
        body(&length)
        writeWithUnsafeMutableBytes(minimumWritableBytes: length.count) { space in
            var fields = FieldWriter(space.baseAddress)
            body(&fields)
            return fields.count
        }
    }
}
