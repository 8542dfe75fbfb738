import Foundation
@testable import ModelStore
import Synchronization
import Testing

@Suite struct ModelResolverTests {
    @Test func aGGUFIsImportedOnce() throws {
        let directory = try TemporaryDirectory()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let cache = "\(directory.path)/cache"
        var calls = 0
        let first = try ModelResolver.resolve(source, cache: cache) { _ in calls += 1 }
        #expect(calls > 0)
        #expect(first.manifest.name == "tiny")
        calls = 0
        let second = try ModelResolver.resolve(source, cache: cache) { _ in calls += 1 }
        #expect(calls == 0)
        #expect(second.manifest == first.manifest)
        #expect(second.manifestPath == first.manifestPath)
        #expect(second.store == first.store)
    }

    @Test func aFileThatChangedIsImportedAgain() throws {
        let directory = try TemporaryDirectory()
        var file = GGUFBuilder.tiny()
        let source = try directory.write(file.bytes(), "tiny.gguf")
        let cache = "\(directory.path)/cache"
        let first = try ModelResolver.resolve(source, cache: cache)
        file.change("output.weight") { $0.data[0] ^= 1 }
        // The same file, size and content but for a bit; only the time tells.
        let handle = try FileHandle(forWritingTo: URL(filePath: source))
        try handle.write(contentsOf: file.bytes())
        try handle.close()
        try FileManager.default.setAttributes(
            [.modificationDate: Date(timeIntervalSince1970: 1_000_000_000)], ofItemAtPath: source)
        let second = try ModelResolver.resolve(source, cache: cache)
        #expect(second.manifest.head != first.manifest.head)
        #expect(second.manifest.layers == first.manifest.layers)
    }

    @Test func aBlobMissingFromTheCacheIsMadeAgain() throws {
        let directory = try TemporaryDirectory()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let cache = "\(directory.path)/cache"
        let first = try ModelResolver.resolve(source, cache: cache)
        try FileManager.default.removeItem(atPath: first.store.blobPath(first.manifest.head))
        let second = try ModelResolver.resolve(source, cache: cache)
        #expect(second.store.verify(second.manifest, progress: { _ in }).isEmpty)
    }

    @Test func processesThatComeTogetherImportOnce() throws {
        let directory = try TemporaryDirectory()
        let source = try DirectoryBuilder.tiny().write(in: directory)
        let cache = "\(directory.path)/cache"
        let finishes = Mutex(0)
        let paths = Mutex<Set<String>>([])
        // The lock is of the open file, so threads stand for processes.
        DispatchQueue.concurrentPerform(iterations: 4) { _ in
            let result = try? ModelResolver.resolve(source, cache: cache) { progress in
                if progress.itemsDone == progress.items { finishes.withLock { $0 += 1 } }
            }
            if let result { _ = paths.withLock { $0.insert(result.manifestPath) } }
        }
        #expect(finishes.withLock { $0 } == 1)
        #expect(paths.withLock { $0.count } == 1)
    }

    @Test func aManifest() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let path = try Importer.run(source: source, store: store, name: "little")
        #expect(path == "\(directory.path)/store/manifests/little.json")
        let resolved = try ModelResolver.resolve(path)
        #expect(resolved.manifest.name == "little")
        _ = try resolved.store.map(resolved.manifest.head, verify: true)
    }

    @Test func aFileOfTheDirectoryStandsForIt() throws {
        let directory = try TemporaryDirectory()
        let source = try DirectoryBuilder.tiny().write(in: directory)
        let cache = "\(directory.path)/cache"
        let whole = try ModelResolver.resolve(source, cache: cache)
        #expect(try ModelResolver.resolve("\(source)/model.safetensors", cache: cache).manifest == whole.manifest)
    }

    @Test func whatIsNotThere() throws {
        let directory = try TemporaryDirectory()
        let other = try directory.write([1, 2, 3, 4, 5], "weights.bin")
        let empty = try directory.write([], "empty.gguf")
        let odd = try directory.write([1, 2, 3, 4], "odd-00001-of-00000.gguf")
        // Nobody writes into it: who waited for that would wait for ever.
        let pipe = "\(directory.path)/pipe.gguf"
        #expect(mkfifo(pipe, 0o600) == 0)
        for (path, code) in [
            (pipe, "file_unreadable"),
            ("\(directory.path)/none.gguf", "file_missing"), (other, "format_unknown"), (empty, "format_unknown"),
            (odd, "format_unknown"),
            (directory.path, "file_missing"), ("no-such-model-\(UUID())", "model_unknown"),
        ] {
            let error = #expect(throws: ModelError.self) {
                _ = try ModelResolver.resolve(path, cache: "\(directory.path)/cache")
            }
            #expect(error?.code == code, "\(path)")
        }
    }
}
