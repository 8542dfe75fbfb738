import Foundation
@testable import ModelStore
import Testing

@Suite struct ResumeTests {
    private func inode(_ path: String) throws -> Int {
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        return try #require(attributes[.systemFileNumber] as? Int)
    }

    /// A kill leaves some blobs, their lines in the journal (the last perhaps cut short, or not yet written), a
    /// temporary file and no manifest. From each such state the import is finished, and what was there is not written
    /// again.
    @Test func anImportThatWasKilledGoesOn() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let path = try Importer.run(source: source, store: store)
        let whole = try store.loadManifest(path: path)
        let journal = "\(store.directory)/journal/\(try SourceFiles(path: source).key(quantize: nil))"
        let lines = try String(contentsOfFile: journal, encoding: .utf8).split(separator: "\n")
        #expect(lines.count == whole.uniqueBlobs.count)

        for finished in 0...lines.count {
            try FileManager.default.removeItem(atPath: path)
            var text = lines.prefix(finished).map { "\($0)\n" }.joined()
            if finished < lines.count { text += lines[finished].prefix(finished * 9) }
            try Data(text.utf8).write(to: URL(filePath: journal))
            _ = try Data([1, 2, 3]).write(to: URL(filePath: "\(store.directory)/tmp/blob-killed"))
            var kept: [String: Int] = [:]
            for (index, line) in lines.enumerated() {
                let blob = "\(store.directory)/blobs/\(line.split(separator: " ")[1])"
                if index < finished {
                    kept[blob] = try inode(blob)
                } else if index > finished {
                    try FileManager.default.removeItem(atPath: blob)
                }
            }

            #expect(try Importer.run(source: source, store: store) == path)
            #expect(try store.loadManifest(path: path) == whole)
            for (blob, number) in kept { #expect(try inode(blob) == number, "written again") }
            #expect(try FileManager.default.contentsOfDirectory(atPath: "\(store.directory)/tmp").isEmpty)
            #expect(store.verify(whole, progress: { _ in }).isEmpty)
        }
    }

    @Test func aBlobThatIsGoneIsWrittenAgain() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let manifest = try store.loadManifest(path: Importer.run(source: source, store: store))
        try FileManager.default.removeItem(atPath: store.blobPath(manifest.layers[0].experts[0]))
        try Data([1]).write(to: URL(filePath: store.blobPath(manifest.head)))
        _ = try Importer.run(source: source, store: store)
        #expect(store.verify(manifest, progress: { _ in }).isEmpty)
    }

    /// Who waits for another import says so; here the other one ends when it hears that.
    @Test func waitingForAnotherImportIsSaid() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        try store.prepare()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let other = open("\(store.directory)/import.lock", O_RDWR | O_CREAT, 0o644)
        #expect(flock(other, LOCK_EX) == 0)
        var notices: [String] = []
        _ = try Importer.run(
            source: source, store: store,
            notice: {
                notices.append($0)
                close(other)
            })
        #expect(notices == ["waits for another import into \(store.directory)"])
    }

    @Test func equalBlobsAreStoredOnce() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        var file = GGUFBuilder.tiny()
        for index in file.tensors.indices where file.tensors[index].name.hasPrefix("blk.1.") {
            let name = file.tensors[index].name.replacing("blk.1.", with: "blk.0.")
            file.tensors[index].data = file.tensors.first { $0.name == name }?.data ?? []
        }
        let source = try directory.write(file.bytes(), "tiny.gguf")
        let manifest = try store.loadManifest(path: Importer.run(source: source, store: store))
        #expect(manifest.layers[0] == manifest.layers[1])
        #expect(manifest.uniqueBlobs.count == 4 + TinyModel.experts)
        let files = try FileManager.default.contentsOfDirectory(atPath: "\(store.directory)/blobs")
        #expect(files.count == manifest.uniqueBlobs.count)
    }

    @Test func aStoreThatCannotBeWritten() throws {
        let directory = try TemporaryDirectory()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let error = #expect(throws: ModelError.self) {
            _ = try Importer.run(source: source, store: Store(directory: source))
        }
        #expect(error?.code == "store_unwritable")
    }

    @Test func argumentsThatAreNotPossible() throws {
        let directory = try TemporaryDirectory()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let store = Store(directory: "\(directory.path)/store")
        let name = #expect(throws: ModelError.self) {
            _ = try Importer.run(source: source, store: store, name: "../x")
        }
        #expect(name?.field == "name")
        let format = #expect(throws: ModelError.self) {
            _ = try Importer.run(source: source, store: store, quantize: .q5_K)
        }
        #expect(format?.limit == "q8_0, q4_K")
    }
}
