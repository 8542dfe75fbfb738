import Foundation
import Testing
import TestSupport

/// Runs programs and waits for them, off the cooperative threads.
enum Program {
    /// The command line's executable: SwiftPM puts it next to the tests.
    static var tramontane: String {
        get throws {
            let tests = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
            let path = URL(filePath: tests).deletingLastPathComponent().appending(path: "tramontane").path
            try #require(FileManager.default.isExecutableFile(atPath: path), "there is no \(path); build it first")
            return path
        }
    }

    /// A python that has OpenAI's client and the protobuf compiler.
    static func python() async throws -> String {
        if let path = ProcessInfo.processInfo.environment["TRAMONTANE_TEST_PYTHON"], !path.isEmpty { return path }
        let script = Fixtures.root.appending(path: "ops/python-environment.sh").path
        return try await run([], executable: script).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    struct Result: Sendable {
        var status: Int32
        var output: String
        var errors: String
    }

    /// The standard output of a command of `tramontane` that has to succeed.
    static func run(_ arguments: [String], input: String = "", executable: String? = nil) async throws -> String {
        let result = try await result(arguments, input: input, executable: executable)
        try #require(
            result.status == 0, "\(arguments.prefix(3).joined(separator: " ")): \(result.status), \(result.errors)")
        return result.output
    }

    static func result(
        _ arguments: [String], input: String = "", executable: String? = nil
    ) async throws -> Result {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(at: directory) }
        // Files rather than pipes: nothing has to be read while it runs.
        func file(_ name: String, _ contents: String) throws -> URL {
            let url = directory.appending(path: name)
            try Data(contents.utf8).write(to: url)
            return url
        }
        let output = try file("output", "")
        let errors = try file("errors", "")
        let process = Process()
        process.executableURL = URL(filePath: try executable ?? tramontane)
        process.arguments = arguments
        process.standardInput = try FileHandle(forReadingFrom: file("input", input))
        process.standardOutput = try FileHandle(forWritingTo: output)
        process.standardError = try FileHandle(forWritingTo: errors)
        let (ended, end) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = { process in
            end.yield(process.terminationStatus)
            end.finish()
        }
        try process.run()
        var status: Int32 = -1
        for await value in ended { status = value }
        return Result(
            status: status, output: String(decoding: try Data(contentsOf: output), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errors), as: UTF8.self))
    }
}

/// Runs something that blocks on a thread of its own.
func offCooperativeThreads<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Swift.Result { try body() }) }
    }
}

/// Waits until something has become true of other processes, which do not say when.
func eventually(_ what: String, within seconds: Double = 20, _ condition: () async throws -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record("in vain: \(what)")
}
