import Glibc

/// File descriptors that no child inherits by accident.
enum Descriptors {
    /// A pipe's two ends.
    static func pipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else {
            throw CommandError.failure("no pipe: \(String(cString: strerror(errno)))")
        }
        // Before any thread is started that could spawn something in between.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }
}
