@testable import ModelStore
import Testing

/// A source that tests write, whole or with one thing wrong.
protocol SourceBuilder: Sendable {
    static func tiny() -> Self
    /// - Returns: the path that is imported; its name contains "tiny".
    func write(in directory: TemporaryDirectory) throws -> String
}

extension SourceBuilder {
    func load() throws -> SourceModel { try .load(write) }
}

extension SourceModel {
    /// Loads what is written into a directory that goes afterwards.
    ///
    /// - Parameter write: returns the path.
    static func load(_ write: (TemporaryDirectory) throws -> String) throws -> SourceModel {
        let directory = try TemporaryDirectory()
        defer { withExtendedLifetime(directory) {} }
        return try load(SourceFiles(path: write(directory)))
    }
}

extension GGUFBuilder: SourceBuilder {
    static func tiny() -> GGUFBuilder { tiny(perExpert: false) }

    func write(in directory: TemporaryDirectory) throws -> String { try directory.write(bytes(), "tiny.gguf") }
}

extension DirectoryBuilder: SourceBuilder {
    func write(in directory: TemporaryDirectory) throws -> String { try write(in: directory, "tiny") }
}

/// One thing that is wrong in a source, and what is said of it.
struct SourceFault<Builder: SourceBuilder>: Sendable, CustomTestStringConvertible {
    let testDescription: String
    private let code: ModelError.Code
    /// A part of what the message says: field, found value or limit.
    private let says: String
    private let change: @Sendable (inout Builder) -> Void

    init(
        _ description: String, _ code: ModelError.Code, _ says: String,
        _ change: @escaping @Sendable (inout Builder) -> Void
    ) {
        testDescription = description
        self.code = code
        self.says = says
        self.change = change
    }

    /// Expects that the source is refused for this.
    func check() throws {
        var builder = Builder.tiny()
        change(&builder)
        let error = try #require(throws: ModelError.self) { _ = try builder.load() }
        #expect(error.code == code.rawValue, "\(error)")
        #expect(error.description.contains(says), "\(error)")
        #expect(error.file?.contains("tiny") == true)
    }
}
