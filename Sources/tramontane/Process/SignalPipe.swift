import Glibc

/// Turns signals into bytes in a pipe, so that one `poll` waits for them and for everything else.
///
/// One for each process: a signal's handler is the process's.
final class SignalPipe {
    let readDescriptor: Int32

    /// Written by ``init(_:)`` before the handlers are in place, read by handlers alone. A handler runs on any thread at any
    /// moment, so it may touch nothing that takes a lock.
    nonisolated(unsafe) private static var writeDescriptor: Int32 = -1

    init(_ signals: [Int32]) throws {
        let ends = try Descriptors.pipe()
        _ = fcntl(ends.read, F_SETFL, O_NONBLOCK)
        _ = fcntl(ends.write, F_SETFL, O_NONBLOCK)
        readDescriptor = ends.read
        Self.writeDescriptor = ends.write
        // Whoever started this process may have done so from a thread that blocks signals, as those of thread pools do;
        // the mask is inherited.
        var unblocked = sigset_t()
        sigemptyset(&unblocked)
        for signal in signals {
            sigaddset(&unblocked, signal)
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { number in
                let saved = errno
                var byte = UInt8(truncatingIfNeeded: number)
                // A full pipe already wakes the reader.
                _ = write(SignalPipe.writeDescriptor, &byte, 1)
                errno = saved
            }
            action.sa_flags = SA_RESTART
            sigaction(signal, &action, nil)
        }
        pthread_sigmask(SIG_UNBLOCK, &unblocked, nil)
    }

    /// The signals that have come since the last call.
    func take() -> [Int32] {
        var signals: [Int32] = []
        withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { buffer in
            while true {
                let count = read(readDescriptor, buffer.baseAddress, buffer.count)
                guard count > 0 else { return }
                signals += buffer[..<count].map(Int32.init)
            }
        }
        return signals
    }
}
