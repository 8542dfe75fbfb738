import Crypto
import Foundation

/// Writes a blob whose name is known only at the end: into a temporary file, hashed on the way, synced, renamed.
///
/// A kill before the renaming leaves a temporary file, which the next import removes; a kill after it leaves a whole
/// blob. The renaming is lasting when the directory is synced (``Store/syncDirectory(_:)``), once for all blobs.
///
/// The file is written in pieces of a huge page, at multiples of their size: then the page cache of a file system that
/// has such pages keeps it in them, and a mapping of the blob is one of huge pages.
///
/// `@unchecked Sendable`: several threads use it, but one after the other, as ``ImportSchedule`` hands out its blob.
final class BlobWriter: @unchecked Sendable {
    static let pieceBytes = 2 << 20

    private let store: Store
    private let temporary: String
    private let descriptor: CInt
    private var hasher = SHA256()
    /// What was appended and is not yet written: the first `filled` bytes.
    private let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: pieceBytes, alignment: 64)
    private var filled = 0

    init(store: Store) throws {
        self.store = store
        var template = Array("\(store.directory)/tmp/blob-XXXXXX".utf8CString)
        descriptor = mkstemp(&template)
        temporary = template.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
        guard descriptor >= 0 else { throw Store.failure(temporary, errno) }
        // mkstemp makes it private; a store may be shared between users.
        fchmod(descriptor, 0o644)
    }

    deinit {
        piece.deallocate()
        guard descriptor >= 0 else { return }
        close(descriptor)
        // After `finish` the file has its new name and this does nothing.
        unlink(temporary)
    }

    func append(_ buffer: UnsafeRawBufferPointer) throws {
        hasher.update(bufferPointer: buffer)
        var rest = buffer
        while rest.count > 0 {
            let count = min(rest.count, piece.count - filled)
            UnsafeMutableRawBufferPointer(rebasing: piece[filled...])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: rest[..<count]))
            filled += count
            if filled == piece.count { try writePiece() }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    private func writePiece() throws {
        try Store.write(UnsafeRawBufferPointer(rebasing: piece[..<filled]), to: descriptor, path: temporary)
        filled = 0
    }

    /// The last call.
    ///
    /// - Returns: the blob's name, under which it is now in the store.
    func finish() throws -> String {
        try writePiece()
        let name = Store.hexadecimal(hasher.finalize())
        guard fsync(descriptor) == 0 else { throw Store.failure(temporary, errno) }
        let target = "\(store.directory)/blobs/\(name)"
        guard rename(temporary, target) == 0 else { throw Store.failure(target, errno) }
        return name
    }
}

extension Store {
    static func failure(_ path: String, _ code: CInt) -> ModelError {
        ModelError(.storeUnwritable, String(cString: strerror(code)), file: path)
    }

    static func write(_ buffer: UnsafeRawBufferPointer, to descriptor: CInt, path: String) throws {
        var rest = buffer
        while let base = rest.baseAddress, rest.count > 0 {
            let count = Foundation.write(descriptor, base, rest.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw failure(path, errno)
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    /// A renaming is lasting only when the directory is synced.
    static func syncDirectory(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path, errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure(path, errno) }
    }

    /// Creates the directories that writing needs.
    func prepare() throws {
        for part in ["blobs", "manifests", "tmp", "journal"] {
            do {
                try FileManager.default.createDirectory(
                    atPath: "\(directory)/\(part)", withIntermediateDirectories: true)
            } catch {
                throw ModelError(.storeUnwritable, "the directory cannot be created", file: "\(directory)/\(part)")
            }
        }
    }

    /// Writes a whole small file under its name, or not at all.
    func writeAtomically(_ bytes: [UInt8], to path: String, directory part: String) throws {
        var template = Array("\(directory)/tmp/file-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        let temporary = template.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
        guard descriptor >= 0 else { throw Self.failure(temporary, errno) }
        defer {
            close(descriptor)
            unlink(temporary)
        }
        fchmod(descriptor, 0o644)
        try bytes.withUnsafeBytes { try Self.write($0, to: descriptor, path: temporary) }
        guard fsync(descriptor) == 0, rename(temporary, path) == 0 else { throw Self.failure(path, errno) }
        try Self.syncDirectory("\(directory)/\(part)")
    }

    /// Runs the body while all other imports into this store, of this process and of others, wait.
    ///
    /// - Parameter waiting: told when another one comes first.
    func locked<Result>(waiting: () -> Void, _ body: () throws -> Result) throws -> Result {
        let path = "\(directory)/import.lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw Self.failure(path, errno) }
        // Closing the file gives the lock back, and so does the end of the process, however it comes.
        defer { close(descriptor) }
        var operation = LOCK_EX | LOCK_NB
        while flock(descriptor, operation) != 0 {
            switch errno {
            case EINTR: continue
            case EWOULDBLOCK:
                waiting()
                operation = LOCK_EX
            default: throw Self.failure(path, errno)
            }
        }
        return try body()
    }
}
