/// Reads a file's header from front to back through a window, so that no count in it decides how much memory is taken.
struct ByteCursor {
    let file: SourceFile
    /// The next byte to read.
    private(set) var position: UInt64 = 0
    /// Headers end here at the latest: the file's end, or 256 MiB, thirty times what the largest vocabularies need.
    let end: UInt64
    private var window: [UInt8] = []
    private var windowStart: UInt64 = 0

    static let maximumHeaderBytes: UInt64 = 256 << 20
    private static let windowBytes: UInt64 = 1 << 20

    init(_ file: SourceFile) {
        self.file = file
        end = min(file.size, Self.maximumHeaderBytes)
    }

    /// How many bytes are left of the header at most: the bound of every count.
    var remaining: UInt64 { end - position }

    /// The next bytes.
    ///
    /// - Throws: ``ModelError`` `file_truncated`, naming the field.
    mutating func take(_ count: UInt64, _ field: @autoclosure () -> String) throws -> ArraySlice<UInt8> {
        guard count <= remaining else {
            throw ModelError(
                .fileTruncated, "the header ends too early", file: file.path, field: field(), offset: position,
                found: "\(count) bytes announced", limit: "at most \(remaining)")
        }
        if position < windowStart || position + count > windowStart + UInt64(window.count) {
            window = try file.bytes(at: position, count: Int(max(count, min(Self.windowBytes, remaining))))
            windowStart = position
        }
        let begin = Int(position - windowStart)
        position += count
        return window[begin..<begin + Int(count)]
    }

    /// A little-endian integer.
    mutating func integer<Value: FixedWidthInteger>(
        _ type: Value.Type, _ field: @autoclosure () -> String
    ) throws -> Value {
        var value: Value = 0
        for byte in try take(UInt64(Value.bitWidth / 8), field()).reversed() {
            // Shifting a byte into an 8-bit value discards what was there: nothing.
            value = value << 8 | Value(truncatingIfNeeded: byte)
        }
        return value
    }

    /// Text behind its length of 64 bits.
    mutating func string(_ field: @autoclosure () -> String) throws -> String {
        let begin = position
        let length = try integer(UInt64.self, field())
        guard let text = String(validating: try take(length, field()), as: UTF8.self) else {
            throw ModelError(.headerInvalid, "text that is not UTF-8", file: file.path, field: field(), offset: begin)
        }
        return text
    }
}
