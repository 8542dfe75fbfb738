import Glibc

/// Reads a descriptor line by line.
struct LineReader {
    /// A line that is longer ends the reading: it bounds the memory. 64 MiB of ids are more than any context.
    static let maximumBytes = 64 << 20

    private let descriptor: Int32
    private var buffer: [UInt8] = []
    /// Bytes of `buffer` that hold no newline.
    private var searched = 0
    private var atEnd = false
    /// Number of the line that was returned last, from 1.
    private(set) var number = 0

    init(_ descriptor: Int32 = STDIN_FILENO) {
        self.descriptor = descriptor
    }

    /// The next line without its newline, or nil at the end. The last line may lack its newline.
    mutating func next() throws -> [UInt8]? {
        while true {
            if let newline = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                return take(newline, dropping: 1)
            }
            searched = buffer.count
            if atEnd { return buffer.isEmpty ? nil : take(buffer.count, dropping: 0) }
            guard buffer.count <= Self.maximumBytes else {
                throw CommandError.failure("line \(number + 1) is longer than \(Self.maximumBytes) bytes")
            }
            try fill()
        }
    }

    /// What has arrived without waiting: call when the descriptor is readable.
    /// - Returns: whole lines; nil at the end.
    mutating func available() throws -> [[UInt8]]? {
        try fill()
        var lines: [[UInt8]] = []
        while let newline = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
            lines.append(take(newline, dropping: 1))
        }
        searched = buffer.count
        if buffer.count > Self.maximumBytes { buffer = [] }
        return atEnd && lines.isEmpty ? nil : lines
    }

    private mutating func take(_ count: Int, dropping newline: Int) -> [UInt8] {
        var line = Array(buffer[..<count])
        buffer.removeFirst(count + newline)
        searched = 0
        number += 1
        if line.last == UInt8(ascii: "\r") { line.removeLast() }
        return line
    }

    private mutating func fill() throws {
        try withUnsafeTemporaryAllocation(byteCount: 65_536, alignment: 1) { chunk in
            while true {
                let count = read(descriptor, chunk.baseAddress, chunk.count)
                if count < 0 {
                    if errno == EINTR { continue }
                    throw CommandError.failure("reading failed: \(String(cString: strerror(errno)))")
                }
                if count == 0 { atEnd = true }
                buffer += chunk[..<count]
                return
            }
        }
    }
}
