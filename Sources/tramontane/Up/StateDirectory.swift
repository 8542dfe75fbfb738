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

    /// The last line of a log that tells of trouble, if it has any: one of a logger's at `info` and below is what a process did
    /// before.
    static func lastWords(of log: String) -> String? {
        guard let file = FileHandle(forReadingAtPath: log) else { return nil }
        defer { try? file.close() }
        let end = (try? file.seekToEnd()) ?? 0
        try? file.seek(toOffset: end > 4096 ? end - 4096 : 0)
        let tail = String(decoding: (try? file.readToEnd()) ?? Data(), as: UTF8.self)
        return tail.split(whereSeparator: \.isNewline).last { !isEveryday($0) }.map(String.init)
    }

    /// Whether a line is `TIME LEVEL LABEL: …` of a level that needs nobody.
    private static func isEveryday(_ line: Substring) -> Bool {
        let words = line.split(separator: " ", maxSplits: 2)
        return words.count == 3 && ["trace", "debug", "info"].contains(words[1])
    }

    /// Writes `cluster.json`, whole or not at all.
    func write(_ state: ClusterState) throws {
        let target = "\(path)/cluster.json"
        let temporary = target + ".new"
        do {
            try Data(state.json.utf8).write(to: URL(filePath: temporary))
        } catch {
            throw CommandError.failure("\(temporary): it cannot be written")
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
