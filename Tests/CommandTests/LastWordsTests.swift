import Foundation
import Testing

@testable import tramontane

struct LastWordsTests {
    private func lastWords(_ lines: String...) throws -> String? {
        let log = FileManager.default.temporaryDirectory.appending(path: "last-words-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: log) }
        try Data(lines.map { $0 + "\n" }.joined().utf8).write(to: log)
        return StateDirectory.lastWords(of: log.path)
    }

    /// What a killed process logged before it was killed is not why.
    @Test func whatWentBeforeIsNotTheReason() throws {
        let ready = "2026-11-28T13:47:48+0000 info worker-2: epoch=1 [Worker] shard ready"
        let lost = "2026-11-28T13:47:49+0000 error worker-2: [Worker] no file descriptors"
        let end = "tramontane worker: memory_insufficient: this worker needs more"
        #expect(try lastWords(ready) == nil)
        #expect(try lastWords(lost, ready) == lost)
        #expect(try lastWords(ready, lost, end, ready) == end)
        #expect(try lastWords() == nil)
        #expect(StateDirectory.lastWords(of: "/nowhere") == nil)
    }
}
