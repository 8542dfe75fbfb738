import Foundation

/// Which blobs of a source are finished, so that an import that was killed goes on where it was, and one that is
/// repeated writes nothing. One line for each blob: its part of the model, its name, its size.
///
/// The file belongs to one state of the source and one way to import it (``SourceFiles/key(quantize:)``). A line is
/// written after its blob; one that was cut short, or whose blob is not there, is not believed. So nothing needs to be
/// synced: a line that is lost costs the writing of its blob.
final class ImportJournal: Sendable {
    private let path: String
    private let descriptor: CInt
    /// When the import began.
    private let finished: [String: (sha256: String, bytes: Int)]

    /// The caller holds the store's lock.
    init(store: Store, key: String) throws {
        path = "\(store.directory)/journal/\(key)"
        var finished: [String: (sha256: String, bytes: Int)] = [:]
        // A line has 100 bytes, and the largest models 65,535 layers in theory, 10,000 blobs in practice.
        let bytes = SourceFiles.exists(path) ? try SourceFile.contents(of: path, limit: 256 << 20) : []
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let words = String(decoding: line, as: UTF8.self).split(separator: " ")
            guard words.count == 3, let size = Int(words[2]), Store.isBlobName(words[1]) else { continue }
            finished[String(words[0])] = (String(words[1]), size)
        }
        self.finished = finished
        descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw Store.failure(path, errno) }
        // What follows a line that was cut short begins on a line of its own.
        if let last = bytes.last, last != UInt8(ascii: "\n") { try append("\n") }
    }

    deinit { close(descriptor) }

    /// The name of a blob that is finished and in the store.
    func blob(_ part: String, bytes: Int, in store: Store) -> String? {
        guard let entry = finished[part], entry.bytes == bytes else { return nil }
        return store.hasBlob(entry.sha256, bytes: bytes) ? entry.sha256 : nil
    }

    /// May be called by several threads: the file is open for appending.
    func record(_ part: String, sha256: String, bytes: Int) throws {
        try append("\(part) \(sha256) \(bytes)\n")
    }

    private func append(_ text: String) throws {
        try Array(text.utf8).withUnsafeBytes { try Store.write($0, to: descriptor, path: path) }
    }
}

extension Store {
    /// 64 lower-case hexadecimal digits: such a name cannot lead out of the directory.
    static func isBlobName(_ name: some StringProtocol) -> Bool {
        name.utf8.count == 64
            && name.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }

    /// Whether a file of this name and size is there; its content is not read.
    func hasBlob(_ sha256: String, bytes: Int) -> Bool {
        var status = stat()
        return stat("\(directory)/blobs/\(sha256)", &status) == 0 && status.st_mode & S_IFMT == S_IFREG
            && status.st_size == bytes
    }
}
