import Glibc

/// Standard output, unbuffered: what is written is there, even in a pipe.
enum StandardOutput {
    static let isTerminal = isatty(STDOUT_FILENO) == 1

    /// - Throws: ``CommandError`` when nobody reads any more, or the disk is full.
    static func write(_ text: String) throws {
        guard writeAll(text, to: STDOUT_FILENO) else {
            // A reader such as `head` that has enough is no error worth a line.
            throw errno == EPIPE
                ? CommandError.silent : CommandError.failure("standard output: \(String(cString: strerror(errno)))")
        }
    }
}

/// Standard error. What cannot be written there cannot be said at all.
enum StandardError {
    static let isTerminal = isatty(STDERR_FILENO) == 1

    static func write(_ text: String) {
        _ = writeAll(text, to: STDERR_FILENO)
    }
}

/// - Returns: whether all was written; `errno` says why not.
private func writeAll(_ text: String, to descriptor: Int32) -> Bool {
    var text = text
    return text.withUTF8 { bytes in
        var rest = UnsafeRawBufferPointer(bytes)
        while !rest.isEmpty {
            let count = write(descriptor, rest.baseAddress, rest.count)
            if count < 0 {
                if errno == EINTR { continue }
                return false
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return true
    }
}
