import Foundation

/// Prometheus's own check of what a scrape gives. Debian's package `prometheus` has it.
package enum Promtool {
    package struct Result: Sendable, Equatable {
        package var status: Int32
        /// What it complains of.
        package var complaints: String

        package init(status: Int32, complaints: String) {
            self.status = status
            self.complaints = complaints
        }
    }

    /// `promtool check metrics`: the text is valid, and the names, types and helps are as is good practice.
    /// - Throws: when there is no promtool.
    package static func check(_ text: String) throws -> Result {
        let directory = FileManager.default.temporaryDirectory.appending(path: "promtool-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let (input, output) = (directory.appending(path: "input"), directory.appending(path: "output"))
        try Data(text.utf8).write(to: input)
        try Data().write(to: output)
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/promtool")
        process.arguments = ["check", "metrics"]
        process.standardInput = try FileHandle(forReadingFrom: input)
        let written = try FileHandle(forWritingTo: output)
        process.standardOutput = written
        process.standardError = written
        try process.run()
        process.waitUntilExit()
        return Result(
            status: process.terminationStatus,
            complaints: String(decoding: try Data(contentsOf: output), as: UTF8.self))
    }
}
