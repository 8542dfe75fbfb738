import Glibc

/// What a daemon asks of the system once, when it starts.
enum ProcessLimits {
    /// Raises the limit of open descriptors as far as it goes: every connection and every mapped blob takes one.
    static func raiseDescriptors() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// The machine's memory.
    static var memoryBytes: UInt64 {
        let pages = sysconf(Int32(_SC_PHYS_PAGES)), size = sysconf(Int32(_SC_PAGESIZE))
        guard pages > 0, size > 0 else { return .max }
        return UInt64(pages).multipliedReportingOverflow(by: UInt64(size)).partialValue
    }

    /// A peer that has gone must be an error of `write`, not the end of the process.
    static func ignoreBrokenPipes() {
        signal(SIGPIPE, SIG_IGN)
    }
}
