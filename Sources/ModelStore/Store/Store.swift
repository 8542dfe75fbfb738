import Crypto
import Foundation
import JSONText
import Synchronization

/// A directory of weight blobs and of manifests that name them.
///
/// - `blobs/SHA256`: a blob, named by its content; never changed.
/// - `manifests/NAME.json`: a model; written last, so that one that is there is complete.
/// - `tmp`, `journal`, `import.lock`: what an import in progress needs; its rests do no harm.
package struct Store: Sendable, Equatable {
    package let directory: String

    /// - Parameter directory: need not exist until something is written.
    package init(directory: String) {
        self.directory = directory
    }

    /// `$TRAMONTANE_STORE`, or `~/.local/share/tramontane`: where models are looked up by name.
    package static var defaultDirectory: String {
        let environment = ProcessInfo.processInfo.environment
        if let directory = environment["TRAMONTANE_STORE"], !directory.isEmpty { return directory }
        return NSHomeDirectory() + "/.local/share/tramontane"
    }

    package static let nameRule = "1 to 100 letters, digits, '.', '_' or '-', the first no '.' or '-'"

    /// Whether a model may be called so; such a name is also a file's name and nothing more.
    package static func isValidName(_ name: String) -> Bool {
        guard (1...100).contains(name.utf8.count), let first = name.utf8.first, first != 0x2E, first != 0x2D else {
            return false
        }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2E, 0x5F, 0x2D: true
            default: false
            }
        }
    }

    package func blobPath(_ blob: BlobReference) -> String {
        "\(directory)/blobs/\(blob.sha256)"
    }

    package func manifestPath(name: String) -> String {
        "\(directory)/manifests/\(name).json"
    }

    /// Reads and checks a manifest.
    ///
    /// - Throws: ``ModelError``: the file cannot be read, is no manifest, or contradicts itself.
    package func loadManifest(path: String) throws -> Manifest {
        // A manifest of 64 layers of 64 experts has 2 MB.
        let bytes = try SourceFile.contents(of: path, limit: 256 << 20)
        // The strict reader first: it refuses duplicate keys and depth, which the decoder accepts.
        _ = try JSONValue.parse(bytes, file: path)
        let manifest: Manifest
        do {
            manifest = try JSONDecoder().decode(Manifest.self, from: Data(bytes))
        } catch {
            throw ModelError(.manifestInvalid, "not a manifest: \(Self.describe(error))", file: path)
        }
        try manifest.validate(file: path)
        return manifest
    }

    private static func describe(_ error: any Error) -> String {
        func place(_ context: DecodingError.Context) -> String {
            context.codingPath.map(\.stringValue).joined(separator: ".")
        }
        return switch error as? DecodingError {
        case .keyNotFound(let key, let context): "\(place(context)) lacks \(key.stringValue)"
        case .typeMismatch(_, let context), .valueNotFound(_, let context): "\(place(context)) has the wrong type"
        case .dataCorrupted(let context): "\(place(context)) cannot be read"
        default: "it cannot be decoded"
        }
    }

    /// Maps a blob into memory.
    ///
    /// - Parameter verify: whether its content is hashed first and compared with its name.
    /// - Throws: ``ModelError`` `blob_missing`, `blob_size` or `blob_altered`, naming the blob's file.
    package func map(_ blob: BlobReference, verify: Bool) throws -> MappedBlob {
        let mapped = try MappedBlob(path: blobPath(blob), reference: blob)
        if verify {
            var hasher = SHA256()
            hasher.update(bufferPointer: mapped.bytes)
            try Self.check(hasher.finalize(), blob, path: blobPath(blob))
        }
        return mapped
    }

    /// Reads a blob into memory once; a file that is cut meanwhile is an error, and none afterwards.
    ///
    /// - Parameters:
    ///   - memory: room for as many bytes as the blob has.
    ///   - verify: whether each part is hashed while the caches still have it.
    /// - Throws: ``ModelError`` as `map`, and `file_truncated` or `file_unreadable`.
    package func read(_ blob: BlobReference, into memory: UnsafeMutableRawBufferPointer, verify: Bool) throws {
        precondition(memory.count >= blob.bytes, "the blob's size is the caller's")
        try read(blob, verify: verify) { UnsafeMutableRawBufferPointer(rebasing: memory[$0]) }
    }

    /// A blob that ``verify(_:progress:)`` found bad.
    package struct BadBlob: Sendable, Equatable {
        package let sha256: String
        package let error: ModelError
    }

    /// Hashes every blob of the manifest, on all processors.
    ///
    /// - Parameter progress: told after every blob.
    /// - Returns: every blob that is missing, cut, altered or unreadable.
    package func verify(_ manifest: Manifest, progress: (StoreProgress) -> Void) -> [BadBlob] {
        let blobs = manifest.uniqueBlobs
        let errors = Mutex<[Int: ModelError]>([:])
        let worker: @Sendable () -> Crew<InOrder>.Worker = {
            let buffer = ReadBuffer()
            return { index in
                let error = rehash(blobs[index], buffer.memory)
                errors.withLock { $0[index] = error }
                return Advance(item: blobs[index].sha256, items: 1, bytes: blobs[index].bytes)
            }
        }
        _ = Crew.run(
            InOrder(count: blobs.count),
            progress: StoreProgress(items: blobs.count, bytes: blobs.reduce(0) { $0 &+ $1.bytes }), worker: worker,
            report: progress)
        return errors.withLock { $0 }.sorted { $0.key < $1.key }.map {
            BadBlob(sha256: blobs[$0.key].sha256, error: $0.value)
        }
    }

    /// A thread's memory for reading.
    private final class ReadBuffer {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: Store.partBytes, alignment: 64)

        deinit { memory.deallocate() }
    }

    /// - Returns: what is wrong with the blob.
    private func rehash(_ blob: BlobReference, _ buffer: UnsafeMutableRawBufferPointer) -> ModelError? {
        do {
            try read(blob, verify: true) { UnsafeMutableRawBufferPointer(rebasing: buffer[..<$0.count]) }
            return nil
        } catch let error as ModelError {
            return error
        } catch {
            return ModelError(.fileUnreadable, "\(error)", file: blobPath(blob))
        }
    }

    /// Small enough for the caches between reading and hashing.
    private static let partBytes = 1 << 20

    /// Reads instead of mapping, so that a disk's read error is an error and not a signal.
    ///
    /// - Parameter room: where the bytes of a range go, at most ``partBytes``.
    private func read(
        _ blob: BlobReference, verify: Bool, into room: (Range<Int>) -> UnsafeMutableRawBufferPointer
    ) throws {
        let path = blobPath(blob)
        let file: SourceFile
        do {
            file = try SourceFile(path: path)
        } catch let error as ModelError where error.code == ModelError.Code.fileMissing.rawValue {
            throw ModelError(.blobMissing, "the blob is missing", file: path)
        }
        try Self.check(size: file.size, blob, path: path)
        var hasher = SHA256()
        var done = 0
        while done < blob.bytes {
            let end = done + min(Self.partBytes, blob.bytes - done)
            let part = room(done..<end)
            try file.read(at: UInt64(done), into: part)
            if verify { hasher.update(bufferPointer: UnsafeRawBufferPointer(part)) }
            done = end
        }
        if verify { try Self.check(hasher.finalize(), blob, path: path) }
    }

    static func check(size: UInt64, _ blob: BlobReference, path: String) throws {
        guard size == UInt64(clamping: blob.bytes) else {
            throw ModelError(
                .blobSize, "the blob's file has the wrong size", file: path, found: "\(size) bytes",
                limit: "\(blob.bytes)")
        }
    }

    private static func check(_ digest: SHA256Digest, _ blob: BlobReference, path: String) throws {
        let found = hexadecimal(digest)
        guard found == blob.sha256 else {
            throw ModelError(
                .blobAltered, "the blob's content was altered", file: path, found: "SHA-256 \(found)",
                limit: blob.sha256)
        }
    }

    static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in bytes {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }
}

/// How far an import or a verification has come.
package struct StoreProgress: Sendable, Equatable {
    /// What is being worked on: `layers.3.experts.5`, or a blob's name.
    package var item = ""
    package var itemsDone = 0
    package var items: Int
    package var bytesDone = 0
    package var bytes: Int
}

package typealias ImportProgress = StoreProgress
