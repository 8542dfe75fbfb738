import Glibc

/// A process that `up` started: this program again, with other arguments.
struct ChildProcess {
    let name: String
    let processID: pid_t
    /// The reading end of its standard output, for a child that reports there; -1 otherwise.
    let output: Int32
    /// Bytes of its log that were there before it.
    let logBegin: UInt64

    /// Starts a child in this process's group.
    ///
    /// `posix_spawn` and not Foundation's `Process`, which puts children into sessions of their own: then a Ctrl-C and a
    /// closing terminal would not reach the group as a shell expects.
    /// - Parameters:
    ///   - log: where standard error goes, and standard output unless it reports; nil for this process's standard error.
    ///   - continuesLog: what stands in the log stays there.
    ///   - supervision: the reading end of the pipe that ties the child to this process.
    static func start(
        _ name: String, arguments: [String], log: String?, continuesLog: Bool, supervision: Int32, reports: Bool
    ) throws -> ChildProcess {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }

        let output = reports ? try Descriptors.pipe() : nil
        defer { if let output { close(output.write) } }
        let flags = O_WRONLY | O_CREAT | O_APPEND | (continuesLog ? 0 : O_TRUNC)
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        var logStatus = stat()
        let logBegin = continuesLog && log.map({ stat($0, &logStatus) }) == 0 ? UInt64(clamping: logStatus.st_size) : 0
        if let log { posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log, flags, 0o644) }
        posix_spawn_file_actions_adddup2(&actions, output?.write ?? STDERR_FILENO, STDOUT_FILENO)
        posix_spawn_file_actions_adddup2(&actions, supervision, Supervision.descriptor)

        // The child ignores these two itself, once it runs; until then they wait.
        var blocked = sigset_t()
        sigemptyset(&blocked)
        sigaddset(&blocked, SIGINT)
        sigaddset(&blocked, SIGHUP)
        posix_spawnattr_setsigmask(&attributes, &blocked)
        var defaults = sigset_t()
        sigfillset(&defaults)
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var argumentPointers: [UnsafeMutablePointer<CChar>?] = (["tramontane"] + arguments).map { strdup($0) }
        defer { for pointer in argumentPointers { free(pointer) } }
        argumentPointers.append(nil)
        var processID: pid_t = 0
        let status = posix_spawn(&processID, "/proc/self/exe", &actions, &attributes, argumentPointers, environ)
        guard status == 0 else {
            if let output { close(output.read) }
            throw error(name, status)
        }
        return ChildProcess(name: name, processID: processID, output: output?.read ?? -1, logBegin: logBegin)
    }

    private static func error(_ name: String, _ number: Int32) -> CommandError {
        CommandError.failure("\(name) cannot be started: \(String(cString: strerror(number)))")
    }

    /// How the child ended, or nil while it runs.
    func takeExit() -> ProcessExit? {
        var status: Int32 = 0
        guard waitpid(processID, &status, WNOHANG) == processID else { return nil }
        return ProcessExit(waitStatus: status)
    }
}

/// How a process ended.
enum ProcessExit: Equatable, Sendable, CustomStringConvertible {
    case status(Int32)
    case signal(Int32)

    /// - Parameter waitStatus: as `waitpid` gives it (wait(2)).
    init(waitStatus: Int32) {
        let number = waitStatus & 0x7F
        self = number == 0 ? .status((waitStatus >> 8) & 0xFF) : .signal(number)
    }

    var description: String {
        switch self {
        case .status(let status): "it ended with status \(status)"
        case .signal(let number):
            "signal \(number) ended it\(strsignal(number).map { " (\(String(cString: $0)))" } ?? "")"
        }
    }
}
