import Glibc

/// The last words of a process whose mapped file was cut while it computed: the memory behind the file's new end is gone.
enum BusErrorReason {
    static let line: StaticString = """
        tramontane: bus error: a mapped file was cut while it was used, or memory failed; `tramontane verify` says which file

        """

    /// From now on SIGBUS is explained on standard error before it ends the process. A backtrace would say nothing of the file,
    /// and take seconds in which the process neither computes nor ends.
    static func announce() {
        var action = sigaction()
        sigemptyset(&action.sa_mask)
        action.__sigaction_handler.sa_handler = { signal in
            // Here only what POSIX calls async-signal-safe. A thread that faults meanwhile says the same again.
            _ = write(STDERR_FILENO, BusErrorReason.line.utf8Start, BusErrorReason.line.utf8CodeUnitCount)
            var standard = sigaction()
            standard.__sigaction_handler.sa_handler = SIG_DFL
            _ = sigaction(signal, &standard, nil)
            raise(signal)
        }
        _ = sigaction(SIGBUS, &action, nil)
    }
}
