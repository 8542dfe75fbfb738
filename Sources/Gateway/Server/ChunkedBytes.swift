/// A chunk of HTTP/1.1's chunked coding (RFC 9112, section 7.1) in the making: bytes are appended where they are sent from.
struct ChunkedBytes {
    /// For the size before the bytes: eight digits and a line break.
    private static let headBytes = 10
    private static let digits = Array("0123456789abcdef".utf8)

    /// The content comes after `headBytes` others.
    private var bytes = [UInt8](repeating: 0, count: headBytes)

    var isEmpty: Bool { bytes.count == Self.headBytes }

    /// Calls `body` with what it may append the content to.
    mutating func append(_ body: (inout [UInt8]) -> Void) { body(&bytes) }

    /// Calls `body` with the chunk's bytes. What is appended next begins another one.
    mutating func take(_ body: (UnsafeRawBufferPointer) -> Void) {
        var size = bytes.count - Self.headBytes
        var start = Self.headBytes - 2
        repeat {
            start -= 1
            bytes[start] = Self.digits[size & 15]
            size >>= 4
        } while size > 0 && start > 0
        bytes[Self.headBytes - 2] = UInt8(ascii: "\r")
        bytes[Self.headBytes - 1] = UInt8(ascii: "\n")
        bytes.append(UInt8(ascii: "\r"))
        bytes.append(UInt8(ascii: "\n"))
        bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start...])) }
        bytes.removeLast(bytes.count - Self.headBytes)
    }
}
