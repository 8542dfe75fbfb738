import Foundation

/// The bond of a child to the `up` that started it: a pipe of which `up` alone holds the writing end.
enum Supervision {
    /// The descriptor at which `up` gives its children the pipe's reading end.
    static let descriptor: Int32 = 3

    /// How long an orderly end may take when `up` is gone.
    private static let deadlineSeconds = 10.0

    /// Lets the process survive the Ctrl-C that hits the whole group, and end when the pipe closes, however `up` ended.
    ///
    /// - Throws: ``CommandError`` when descriptor 3 is no pipe: then nobody supervises.
    static func begin() throws {
        guard lseek(descriptor, 0, SEEK_CUR) < 0, errno == ESPIPE else {
            throw CommandError.usage("--supervised is for the children of `tramontane up`; leave it out")
        }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        signal(SIGINT, SIG_IGN)
        signal(SIGHUP, SIG_IGN)
        let watch = Thread {
            var byte: UInt8 = 0
            while true {
                let count = read(descriptor, &byte, 1)
                if count == 0 || (count < 0 && errno != EINTR) { break }
            }
            StandardError.write("up has gone, ending\n")
            kill(getpid(), SIGTERM)
            Thread.sleep(forTimeInterval: deadlineSeconds)
            _exit(1)
        }
        watch.name = "supervision"
        watch.start()
    }
}
