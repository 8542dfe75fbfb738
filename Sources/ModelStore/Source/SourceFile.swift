import Foundation

/// A file that is read at given offsets, bounds checked.
///
/// Sources are read with `pread`, not mapped: a file that somebody truncates meanwhile then gives an error, where a
/// mapping would give SIGBUS.
final class SourceFile: Sendable {
    let path: String
    let size: UInt64
    /// Device, inode, size and time of the last change in nanoseconds: while these stay, so does the content.
    let identity: String
    private let descriptor: CInt

    /// - Throws: ``ModelError`` `file_missing` or `file_unreadable`.
    init(path: String) throws {
        // A pipe without a writer is refused like any other, not waited for.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw Self.failure(path, errno) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            let code = errno
            close(descriptor)
            throw Self.failure(path, code)
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            throw ModelError(.fileUnreadable, "not a regular file", file: path)
        }
        self.path = path
        self.descriptor = descriptor
        size = UInt64(clamping: status.st_size)
        let time = status.st_mtim
        identity = "\(status.st_dev):\(status.st_ino):\(size):\(time.tv_sec).\(time.tv_nsec)"
    }

    deinit { close(descriptor) }

    static func failure(_ path: String, _ code: CInt) -> ModelError {
        let text = String(cString: strerror(code))
        return code == ENOENT || code == ENOTDIR
            ? ModelError(.fileMissing, "no such file", file: path)
            : ModelError(.fileUnreadable, text, file: path)
    }

    /// Fills the buffer from `offset` on.
    ///
    /// - Throws: ``ModelError`` `file_truncated` when the file ends before the buffer is full.
    func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws {
        guard let base = buffer.baseAddress, buffer.count > 0 else { return }
        let (end, overflow) = offset.addingReportingOverflow(UInt64(buffer.count))
        guard !overflow, end <= size else {
            throw ModelError(
                .fileTruncated, "the file ends too early", file: path, offset: offset, found: "\(size) bytes",
                limit: "\(buffer.count) bytes from here")
        }
        var done = 0
        while done < buffer.count {
            let count = pread(descriptor, base + done, buffer.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if errno == EINTR { continue }
                throw Self.failure(path, errno)
            }
            guard count > 0 else {
                throw ModelError(
                    .fileTruncated, "the file became shorter while it was read", file: path,
                    offset: offset + UInt64(done))
            }
            done += count
        }
    }

    /// `count` bytes from `offset` on. The caller has checked that `count` is no more than it wants in memory.
    func bytes(at offset: UInt64, count: Int) throws -> [UInt8] {
        let (end, overflow) = offset.addingReportingOverflow(UInt64(max(0, count)))
        guard count >= 0, !overflow, end <= size else {
            throw ModelError(
                .fileTruncated, "the file ends too early", file: path, offset: offset, found: "\(size) bytes",
                limit: "\(count) bytes from here")
        }
        return try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            try read(at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            initialized = count
        }
    }

    /// The whole file, when it has at most `limit` bytes.
    static func contents(of path: String, limit: Int) throws -> [UInt8] {
        let file = try SourceFile(path: path)
        guard file.size <= UInt64(limit) else {
            throw ModelError(
                .headerInvalid, "the file is too large", file: path, found: "\(file.size) bytes",
                limit: "at most \(limit)")
        }
        return try file.bytes(at: 0, count: Int(file.size))
    }
}
