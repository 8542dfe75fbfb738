import Foundation
import Glibc
import JSONText
import Testing

/// A cluster that `tramontane up` runs on this machine.
final class Cluster: Sendable {
    @TaskLocal static var current: Cluster?

    enum Layout: Sendable, CustomTestStringConvertible {
        case even(stages: Int, workers: Int)
        /// The text of a topology file.
        case topology(String)
        /// `--numa all`.
        case eachNode

        var testDescription: String {
            switch self {
            case .even(let stages, let workers): "\(workers) workers in \(stages) stages"
            case .topology: "experts on two workers"
            case .eachNode: "a worker on each NUMA node"
            }
        }
    }

    let processID: pid_t
    let httpPort: Int
    let listenPort: Int
    /// Where its logs are.
    let state: URL
    private let exit: AsyncStream<Int32>

    private init(processID: pid_t, httpPort: Int, listenPort: Int, state: URL, exit: AsyncStream<Int32>) {
        self.processID = processID
        self.httpPort = httpPort
        self.listenPort = listenPort
        self.state = state
        self.exit = exit
    }

    static func required() throws -> Cluster {
        try #require(current, "the suite has no cluster")
    }

    /// Starts a cluster on free ports and waits until it serves.
    static func start(_ layout: Layout, options: [String] = [], state: URL) async throws -> Cluster {
        var arguments = [
            "up", "--model", try DemoStore.required().model, "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0",
            "--state", state.path, "--log-level", "warning",
        ]
        arguments += options
        switch layout {
        case .even(let stages, let workers):
            arguments += ["--workers", String(workers), "--stages", String(stages)]
        case .topology(let text):
            let file = state.appending(path: "topology.yaml")
            try Data(text.utf8).write(to: file)
            arguments += ["--topology", file.path]
        case .eachNode:
            arguments += ["--numa", "all"]
        }
        let process = Process()
        process.executableURL = URL(filePath: try Program.tramontane)
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        let output = Pipe()
        process.standardOutput = output
        let errors = state.appending(path: "up.log")
        try Data().write(to: errors)
        process.standardError = try FileHandle(forWritingTo: errors)
        let (exit, ended) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = { process in
            ended.yield(process.terminationStatus)
            ended.finish()
        }
        try process.run()
        let descriptor = output.fileHandleForReading.fileDescriptor
        let line = try await offCooperativeThreads { readLine(from: descriptor) }
        let words = line.split(separator: " ")
        guard words.count == 3, words[0] == "ready", words[1].hasPrefix("http="), words[2].hasPrefix("listen="),
            let http = words[1].split(separator: ":").last.flatMap({ Int($0) }),
            let listen = words[2].split(separator: ":").last.flatMap({ Int($0) })
        else {
            kill(process.processIdentifier, SIGTERM)
            for await _ in exit {}
            throw Unserved(description: "the cluster did not become ready, it said \"\(line)\"; logs: \(logs(state))")
        }
        return Cluster(
            processID: process.processIdentifier, httpPort: http, listenPort: listen, state: state, exit: exit)
    }

    struct Unserved: Error, CustomStringConvertible {
        let description: String
    }

    private static func readLine(from descriptor: Int32) -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(descriptor, &byte, 1) == 1, byte != UInt8(ascii: "\n") { line.append(byte) }
        return String(decoding: line, as: UTF8.self)
    }

    /// The ends of the processes' logs.
    private static func logs(_ state: URL) -> String {
        let files = (try? FileManager.default.subpathsOfDirectory(atPath: state.path)) ?? []
        return files.filter { $0.hasSuffix(".log") }.map { file in
            let text = (try? String(contentsOf: state.appending(path: file), encoding: .utf8)) ?? ""
            return "\(file): \(text.suffix(1000))"
        }.joined(separator: "\n")
    }

    /// Waits for the end of `up`.
    func exitStatus() async -> Int32 {
        var status: Int32 = -1
        for await value in exit { status = value }
        return status
    }

    func stop() async {
        kill(processID, SIGTERM)
        _ = await exitStatus()
    }
}

/// Runs a cluster for the time of `body`.
func withCluster(
    _ layout: Cluster.Layout, options: [String] = [], _ body: @Sendable (Cluster) async throws -> Void
) async throws {
    let state = try temporaryDirectory()
    defer { try? FileManager.default.removeItem(at: state) }
    let cluster = try await Cluster.start(layout, options: options, state: state)
    do {
        try await body(cluster)
    } catch {
        await cluster.stop()
        throw error
    }
    await cluster.stop()
}

extension Cluster {
    var address: String { "127.0.0.1:\(listenPort)" }

    func status() async throws -> StatusReport {
        let json = try await Program.run(["status", "--cluster", address, "--json"])
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(StatusReport.self, from: Data(json.utf8))
    }

    func get(_ path: String) async throws -> String {
        try await RawSocket.exchange(
            port: httpPort, Array("GET \(path) HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".utf8))
    }

    static func post(_ path: String, _ body: String) -> [UInt8] {
        Array(
            ("POST \(path) HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
                + body).utf8)
    }

    /// Reads the answer to a request to its end.
    /// - Parameter begun: called once, when the first text is there or nothing more comes
    func stream(_ request: [UInt8], begun: @escaping @Sendable () -> Void) async throws -> String {
        let port = httpPort
        return try await offCooperativeThreads {
            let socket = try RawSocket(port: port)
            socket.send(request)
            var received: [UInt8] = []
            var hasBegun = false
            while let bytes = socket.receive() {
                received += bytes
                if !hasBegun, received.contains(Array("\"text\"".utf8)) {
                    hasBegun = true
                    begun()
                }
            }
            if !hasBegun { begun() }
            return String(decoding: received, as: UTF8.self)
        }
    }

    /// An answer that takes long enough to be hit: with </s> out of the way it goes on to its limit.
    static let longTale = post(
        "/v1/completions",
        #"""
        {"prompt": "A long tale:", "max_tokens": 1500, "stream": true, "logit_bias": {"2": -100}}
        """#)

    /// The JSON body of a whole answer.
    func post(_ path: String, _ json: String) async throws -> JSONValue {
        let answer = try await RawSocket.exchange(port: httpPort, Self.post(path, json))
        let body = try #require(answer.firstRange(of: "\r\n\r\n"), "no HTTP answer")
        return try JSONValue(parsing: String(answer[body.upperBound...]))
    }
}

/// What `tramontane status --json` says, as far as tests look at it.
struct StatusReport: Decodable {
    struct Worker: Decodable {
        var name: String
        var state: String
        var stage: Int
        var firstLayer: Int
        var layerCount: Int
        var experts: [Int]
        var processId: pid_t
        var metricsAddress: String
        var accounting: Accounting
    }

    struct Accounting: Decodable {
        var maximumRequestsInStep: Int
        var maximumHomesInProduct: Int
        var links: [Link]
        var mappedBlobs: [String]
    }

    struct Link: Decodable {
        var peer: String
        var kind: String
        var framesSent: Int
        var framesReceived: Int
    }

    var ready: Bool
    var workers: [Worker]
}
