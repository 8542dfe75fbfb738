import Foundation

/// Prometheus's own check of what a scrape gives. Debian's package `prometheus` has it.
package enum Promtool {
    /// `promtool check metrics`: the text is valid, and the names, types and helps are as is good practice.
    ///
    /// - Returns: what it complains of; empty where all is well.
    /// - Throws: when there is no promtool.
    package static func complaints(about text: String) throws -> String {
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
        let said = String(decoding: try Data(contentsOf: output), as: UTF8.self)
        return said.isEmpty && process.terminationStatus != 0 ? "status \(process.terminationStatus)" : said
    }
}
