import Foundation

/// A blob in memory, read-only, until the last reference to it goes.
///
/// `@unchecked Sendable`: the pointer is the only thing that the compiler cannot see through; the bytes behind it are
/// read-only, belong to this object alone and stay until `deinit`.
package final class MappedBlob: @unchecked Sendable {
    /// All bytes of the blob; the beginning is aligned to a page. Valid as long as this object.
    package let bytes: UnsafeRawBufferPointer
    package let reference: BlobReference
    /// What keeps the bytes; nil where they are a mapping of the file.
    private let memory: AnyObject?

    /// A blob that was read into memory.
    ///
    /// - Parameter memory: keeps `bytes`, which nobody writes any more.
    package init(reference: BlobReference, bytes: UnsafeRawBufferPointer, memory: AnyObject) {
        self.bytes = bytes
        self.reference = reference
        self.memory = memory
    }

    init(path: String, reference: BlobReference) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw errno == ENOENT
                ? ModelError(.blobMissing, "the blob is missing", file: path) : SourceFile.failure(path, errno)
        }
        // The mapping outlives the descriptor.
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SourceFile.failure(path, errno) }
        try Store.check(size: UInt64(clamping: status.st_size), reference, path: path)
        guard reference.bytes > 0 else { throw ModelError(.blobSize, "the blob is empty", file: path) }
        guard let base = mmap(nil, reference.bytes, PROT_READ, MAP_SHARED, descriptor, 0), base != MAP_FAILED else {
            throw SourceFile.failure(path, errno)
        }
        // What the page cache lacks is read into huge pages, where the file system has them; elsewhere nothing changes.
        _ = madvise(base, reference.bytes, MADV_HUGEPAGE)
        bytes = UnsafeRawBufferPointer(start: base, count: reference.bytes)
        self.reference = reference
        memory = nil
    }

    deinit {
        guard memory == nil else { return }
        munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    }

    /// A tensor of the blob: what it is, and its bytes (valid as long as this object).
    ///
    /// - Throws: ``ModelError`` `manifest_invalid` when the blob has no such tensor or it lies outside.
    package func tensor(_ name: String) throws -> (TensorEntry, UnsafeRawBufferPointer) {
        guard let entry = reference.tensors.first(where: { $0.name == name }) else {
            throw ModelError(.manifestInvalid, "the blob has no such tensor", file: reference.sha256, field: name)
        }
        guard entry.offset >= 0, entry.bytes >= 0, entry.offset <= bytes.count,
            entry.bytes <= bytes.count - entry.offset
        else {
            throw ModelError(
                .manifestInvalid, "the tensor lies outside the blob", file: reference.sha256, field: name,
                found: "\(entry.bytes) bytes at \(entry.offset)", limit: "\(bytes.count) bytes")
        }
        return (entry, UnsafeRawBufferPointer(rebasing: bytes[entry.offset..<entry.offset + entry.bytes]))
    }
}
