import Foundation
import Testing

@testable import tramontane

struct LastWordsTests {
    private static let ready = "2026-11-28T13:47:48+0000 info worker-2: epoch=1 [Worker] shard ready"
    private static let lost = "2026-11-28T13:47:49+0000 error worker-2: [Worker] no file descriptors"
    private static let end = "tramontane: memory_insufficient: this worker needs more"
    private static let crash = "*** Program crashed: Bus error at 0x0000000000002352 ***"

    private func lastWords(
        _ lines: [String], ofPredecessor old: [String] = [], after exit: ProcessExit?
    ) throws -> String? {
        let log = FileManager.default.temporaryDirectory.appending(path: "last-words-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: log) }
        let (old, new) = (Data(old.map { $0 + "\n" }.joined().utf8), Data(lines.map { $0 + "\n" }.joined().utf8))
        try (old + new).write(to: log)
        return StateDirectory.lastWords(of: log.path, from: UInt64(old.count), after: exit)
    }

    /// A limit that was told at the start is not why a cluster is not there yet.
    @Test func whoLivesTellsOfTroubleOnly() throws {
        let limit = "2026-11-28T13:47:48+0000 notice coordinator: [tramontane] only 32768 tokens fit"
        #expect(try lastWords([limit, Self.ready], after: nil) == nil)
        #expect(try lastWords([Self.lost, limit], after: nil) == Self.lost)
    }

    @Test func whoEndsByItselfSaysWhy() throws {
        let exit = ProcessExit.status(1)
        // What a library logs while the process goes down is not why.
        #expect(try lastWords([Self.ready, Self.end, Self.lost], after: exit) == Self.end)
        #expect(try lastWords([Self.lost, Self.ready], after: exit) == Self.lost)
        #expect(try lastWords([Self.ready], after: exit) == nil)
        #expect(try lastWords([], after: exit) == nil)
        #expect(StateDirectory.lastWords(of: "/nowhere", after: exit) == nil)
    }

    @Test func aCrashHasItsReasonBeforeItsStacks() throws {
        let stacks = (0..<300).map { "  \($0)  0x00007ffab2aa3f16 __futex_abstimed_wait_common + 198 in libc.so.6" }
        let log = [Self.ready, Self.end, Self.crash] + stacks + ["Backtrace took 4.29s"]
        #expect(try lastWords(log, after: .signal(8)) == Self.crash)
        #expect(try lastWords([Self.ready, Self.lost], after: .signal(11)) == nil)
        // A trap says why itself, before the backtrace says where.
        let trap = "Engine/Matrix.swift:12: Fatal error: Index out of range"
        #expect(try lastWords([Self.ready, trap] + log, after: .signal(4)) == trap)
    }

    @Test func aBusErrorSaysWhatItMeans() throws {
        let words = BusErrorReason.line.description.split(separator: "\n").map(String.init)
        #expect(words.count == 1)
        #expect(try lastWords([Self.end] + words + [Self.lost], after: .signal(7)) == words[0])
        #expect(try lastWords([Self.end, Self.lost], after: .signal(7)) == nil)
    }

    /// What a killed process logged before it was killed is not why; nor is what its predecessor died of.
    @Test func whoIsKilledHasNoLastWords() throws {
        #expect(try lastWords([Self.crash, Self.end, Self.ready, Self.lost], after: .signal(9)) == nil)
    }

    @Test(arguments: [ProcessExit.status(1), .signal(11), nil])
    func aPredecessorsWordsAreItsOwn(exit: ProcessExit?) throws {
        let old = [Self.lost, Self.crash, Self.end]
        #expect(try lastWords([Self.ready], ofPredecessor: old, after: exit) == nil)
        #expect(try lastWords(old, ofPredecessor: [Self.ready], after: exit) != nil)
    }

    @Test func whoHasNotEndedHasTroubles() throws {
        #expect(try lastWords([Self.ready, Self.lost, Self.ready], after: nil) == Self.lost)
        #expect(try lastWords([Self.ready], after: nil) == nil)
    }
}
