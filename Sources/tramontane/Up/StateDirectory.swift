import Foundation

/// Where `up` keeps its processes' logs and a description of what runs. One `up` at a time.
struct StateDirectory {
    let path: String
    /// Holds the lock for as long as the process lives.
    private let lock: Int32

    /// - Parameter path: created where it is missing; nil for a new one in the temporary directory.
    init(_ path: String?) throws {
        if let path {
            self.path = path
            do {
                try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            } catch {
                throw CommandError.failure("--state \(path): the directory cannot be created")
            }
        } else {
            var template = Array((NSTemporaryDirectory() + "tramontane-XXXXXX").utf8CString)
            guard mkdtemp(&template) != nil else {
                throw CommandError.failure("no temporary directory for --state: \(String(cString: strerror(errno)))")
            }
            self.path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        }
        lock = open(self.path + "/up.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard lock >= 0 else {
            throw CommandError.failure("--state \(self.path): \(String(cString: strerror(errno)))")
        }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            throw CommandError.failure(
                "--state \(self.path): another `tramontane up` uses it; end that one or give another directory")
        }
    }

    func log(of name: String) -> String {
        "\(path)/\(name).log"
    }

    /// The line of a log that tells why its process has ended, if one does; without an end, the last that tells of trouble.
    ///
    /// What a logger said before is what the process did: only a process that ends by itself may have no better reason.
    ///
    /// - Parameter begin: bytes of the log that are a predecessor's.
    static func lastWords(of log: String, from begin: UInt64 = 0, after exit: ProcessExit?) -> String? {
        guard let file = FileHandle(forReadingAtPath: log) else { return nil }
        defer { try? file.close() }
        let end = (try? file.seekToEnd()) ?? 0
        try? file.seek(toOffset: max(begin, end > lastBytes ? end - lastBytes : 0))
        let lines = String(decoding: (try? file.readToEnd()) ?? Data(), as: UTF8.self).split(
            whereSeparator: \.isNewline)
        let words: Substring?
        switch exit {
        case .status: words = lines.last { $0.hasPrefix("tramontane") } ?? lines.last { !isEveryday($0) }
        case .signal(SIGBUS): words = lines.last { BusErrorReason.line.description == "\($0)\n" }
        case .signal(SIGILL), .signal(SIGTRAP), .signal(SIGABRT), .signal(SIGFPE), .signal(SIGSEGV):
            words = lines.last { $0.contains("Fatal error") } ?? lines.last { $0.hasPrefix("*** Program crashed") }
        // It was killed, and could say nothing.
        case .signal: words = nil
        case nil: words = lines.last { !isEveryday($0) }
        }
        return words.map(String.init)
    }

    /// A crash's stacks follow its reason.
    private static let lastBytes: UInt64 = 64 << 10

    /// Whether a line is `TIME LEVEL LABEL: …` of a level that needs nobody.
    private static func isEveryday(_ line: Substring) -> Bool {
        let words = line.split(separator: " ", maxSplits: 2)
        return words.count == 3 && ["trace", "debug", "info", "notice"].contains(words[1])
    }

    /// Writes `cluster.json`, whole or not at all.
    func write(_ state: ClusterState) throws(CommandError) {
        let target = "\(path)/cluster.json"
        let temporary = target + ".new"
        do {
            try Data(state.json.utf8).write(to: URL(filePath: temporary))
        } catch {
            throw CommandError.failure("\(temporary): \(Tramontane.describe(error))")
        }
        guard rename(temporary, target) == 0 else {
            throw CommandError.failure("\(target): \(String(cString: strerror(errno)))")
        }
    }
}

/// What `cluster.json` says.
struct ClusterState {
    struct Child {
        let name: String
        var processID: Int32
        let log: String
        /// `running`, or how it ended.
        var state: String
    }

    let processID: Int32
    let model: String
    var http = ""
    var listen = ""
    var isReady = false
    var children: [Child] = []

    var json: String {
        JSONLine.object { object in
            object.number("pid", processID)
            object.string("model", model)
            object.bool("ready", isReady)
            object.string("http", http)
            object.string("listen", listen)
            object.objects("processes", children) { object, child in
                object.string("name", child.name)
                object.number("pid", child.processID)
                object.string("log", child.log)
                object.string("state", child.state)
            }
        }
    }
}
