import Foundation
import Glibc
import ModelStore

/// How fast a model comes into a store, hashing included, beside what the disk does alone. Every file is read past the page
/// cache, as far as the system lets go of it; the store is a new one that goes at the end.
struct ImportBench {
    /// Of the source's weights.
    let bytes: Int
    let importSeconds: Double
    /// Bytes a second.
    let diskRead: Double
    let diskWrite: Double

    private static let pieceBytes = 8 << 20
    /// As much as the source has is written to see how fast the disk is, but no more than this.
    private static let mostWrittenBytes = 1 << 30

    init(source: String) throws {
        let files = try Self.files(source)
        let read = try Self.read(files)
        diskRead = Double(read.bytes) / read.seconds
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "tramontane-bench-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        diskWrite = try Self.writeRate(directory + "/probe", bytes: min(read.bytes, Self.mostWrittenBytes))

        for file in files { try Self.open(file) { Self.forget($0) } }
        var bytes = 0
        let bar = ProgressBar("importing")
        defer { bar.clear() }
        let start = ContinuousClock.now
        _ = try Importer.run(source: source, store: Store(directory: directory + "/store")) { progress in
            bytes = progress.bytes
            bar.show(progress)
        }
        importSeconds = (ContinuousClock.now - start) / .seconds(1)
        self.bytes = bytes
    }

    var importRate: Double { Double(bytes) / importSeconds }

    /// Every byte is read once and written once.
    var floorRate: Double { min(diskRead, diskWrite) }

    func write(to object: inout JSONLine.Object) {
        object.number("bytes", bytes)
        object.rounded("seconds", importSeconds)
        object.whole("import_bytes_per_second", importRate)
        object.whole("disk_read_bytes_per_second", diskRead)
        object.whole("disk_write_bytes_per_second", diskWrite)
        object.rounded("fraction_of_floor", importRate / floorRate, digits: 3)
    }

    var table: String {
        TextTable.columns([
            ["IMPORT OF \(ByteCount.text(UInt64(clamping: bytes)))", "GB/S"],
            ["import, hashing included", Figure.fixed(importRate / 1e9, 2)],
            ["the disk alone, reading", Figure.fixed(diskRead / 1e9, 2)],
            ["the disk alone, writing", Figure.fixed(diskWrite / 1e9, 2)],
        ])
    }

    /// The file, or those of the directory.
    private static func files(_ source: String) throws -> [String] {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: source, isDirectory: &isDirectory) else {
            throw CommandError.failure("\(source): no such file or directory")
        }
        guard isDirectory.boolValue else { return [source] }
        return try FileManager.default.contentsOfDirectory(atPath: source).sorted().map { "\(source)/\($0)" }
            .filter { FileManager.default.fileExists(atPath: $0, isDirectory: &isDirectory) && !isDirectory.boolValue }
    }

    private static func read(_ files: [String]) throws -> (bytes: Int, seconds: Double) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: pieceBytes, alignment: 4096)
        defer { buffer.deallocate() }
        var total = 0
        var seconds = 0.0
        for file in files {
            try open(file) { descriptor in
                forget(descriptor)
                let start = ContinuousClock.now
                while true {
                    let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
                    if count < 0, errno == EINTR { continue }
                    guard count >= 0 else { throw failure(file) }
                    guard count > 0 else { break }
                    total += count
                }
                seconds += (ContinuousClock.now - start) / .seconds(1)
            }
        }
        return (total, seconds)
    }

    private static func writeRate(_ path: String, bytes: Int) throws -> Double {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: pieceBytes, alignment: 4096)
        defer { buffer.deallocate() }
        buffer.initializeMemory(as: UInt8.self, repeating: 0x55)
        defer { unlink(path) }
        let start = ContinuousClock.now
        try open(path, O_WRONLY | O_CREAT | O_EXCL) { descriptor in
            var written = 0
            while written < bytes {
                let count = Glibc.write(descriptor, buffer.baseAddress, min(buffer.count, bytes - written))
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw failure(path) }
                written += count
            }
            guard fsync(descriptor) == 0 else { throw failure(path) }
        }
        return Double(bytes) / ((ContinuousClock.now - start) / .seconds(1))
    }

    private static func open(
        _ path: String, _ flags: Int32 = O_RDONLY, _ body: (Int32) throws -> Void
    ) throws {
        let descriptor = Glibc.open(path, flags | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        try body(descriptor)
    }

    /// Asks the system to drop what it keeps of the file; what was not written yet it could not drop.
    private static func forget(_ descriptor: Int32) {
        fsync(descriptor)
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
    }

    private static func failure(_ path: String) -> CommandError {
        .failure("\(path): \(String(cString: strerror(errno)))")
    }
}
