import Foundation
import Testing
import Transport

/// The client in Python, which was written from the documents alone, against this side's transport.
@Suite(.enabled(if: PythonClient.python != nil, "TRAMONTANE_TEST_PYTHON names no Python with grpcio-tools"))
struct PythonClientTests {
    @Test func streamsACompletion() async throws {
        let server = try await EchoServer.start()
        let text = (0..<50).map { "word\($0) " }.joined()
        let (status, answer) = try await PythonClient.run(
            port: server.listener.port, ["--prompt", text, "--seed", "5", "--max-tokens", "100", "--temperature", "0"])
        #expect(status == 0)
        #expect(answer["text"] as? String == text)
        #expect(answer["ids"] as? [Int] == Array(0..<50))
        #expect(answer["finish_reason"] as? String == "stop")
        #expect(answer["seed"] as? Int == 5)
        await server.listener.close()
    }

    @Test func asksForTheStatus() async throws {
        let server = try await EchoServer.start()
        let (status, answer) = try await PythonClient.run(port: server.listener.port, ["--status"])
        #expect(status == 0)
        #expect(answer["model"] as? String == "echo")
        await server.listener.close()
    }

    @Test func aRefusalIsAnExitStatus() async throws {
        let server = try await EchoServer.start()
        let (status, _) = try await PythonClient.run(port: server.listener.port, ["--prompt", "refused"])
        #expect(status == 1)
        await server.listener.close()
    }
}

private enum PythonClient {
    static var python: String? { ProcessInfo.processInfo.environment["TRAMONTANE_TEST_PYTHON"] }

    /// Runs the client to its end, without blocking a thread of the cooperative pool.
    static func run(port: Int, _ arguments: [String]) async throws -> (status: Int32, answer: [String: Any]) {
        let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Python/wire_client.py")
        let process = Process()
        process.executableURL = URL(filePath: try #require(python))
        process.arguments = [script.path(), "--host", "127.0.0.1", "--port", String(port)] + arguments
        let output = Pipe()
        process.standardOutput = output
        let (ended, end) = AsyncStream<Void>.makeStream()
        process.terminationHandler = { _ in end.finish() }
        try process.run()
        for await _ in ended {}
        // An answer is a few hundred bytes, so the pipe never fills while the process runs.
        let data = output.fileHandleForReading.readDataToEndOfFile()
        let answer = data.isEmpty ? nil : try JSONSerialization.jsonObject(with: data) as? [String: Any]
        return (process.terminationStatus, answer ?? [:])
    }
}
