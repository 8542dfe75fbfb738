@testable import ModelStore
import Testing

/// A world of threads that take pieces and end them in any order.
@Suite struct ImportScheduleTests {
    private typealias Work = ImportSchedule.Work

    /// What a run did.
    private struct Run {
        var finished: [Int] = []
        var failed: [Work] = []
    }

    /// - Parameter bad: blobs in which the preparation of the last chunk fails.
    private func run(
        seed: UInt64, chunks: [Int], threads: Int, streams: Int, window: Int, bad: Set<Int> = []
    ) -> Run {
        var generator = SeededGenerator(seed: seed)
        var schedule = ImportSchedule(chunks: chunks, streams: streams, window: window)
        var running: [Work] = []
        var prepared: [Int: Set<Int>] = [:]
        var appended: [Int: Int] = [:]
        var run = Run()
        var open: Set<Int> = []
        while true {
            while running.count < threads, let work = schedule.next() {
                running.append(work)
                open.insert(work.blob)
                let inMemory = prepared.values.reduce(0) { $0 + $1.count } + running.count { $0.kind == .prepare }
                if run.failed.isEmpty {
                    #expect(inMemory <= window, "seed \(seed)")
                    #expect(open.count <= streams, "seed \(seed)")
                }
                switch work.kind {
                case .prepare: #expect(prepared[work.blob]?.contains(work.chunk) != true, "seed \(seed)")
                case .append:
                    #expect(prepared[work.blob]?.contains(work.chunk) == true, "seed \(seed)")
                    #expect(appended[work.blob, default: 0] == work.chunk, "seed \(seed)")
                    #expect(running.count { $0.blob == work.blob && $0.kind == .append } == 1, "seed \(seed)")
                case .finish: #expect(appended[work.blob] == chunks[work.blob], "seed \(seed)")
                }
            }
            guard let index = running.indices.randomElement(using: &generator) else { return run }
            let work = running.remove(at: index)
            if bad.contains(work.blob), work.kind == .prepare, work.chunk == chunks[work.blob] - 1 {
                run.failed.append(work)
                schedule.failed(work)
                continue
            }
            schedule.succeeded(work)
            switch work.kind {
            case .prepare: prepared[work.blob, default: []].insert(work.chunk)
            case .append:
                prepared[work.blob]?.remove(work.chunk)
                appended[work.blob, default: 0] += 1
            case .finish:
                run.finished.append(work.blob)
                open.remove(work.blob)
            }
        }
    }

    @Test func everyBlobIsFinishedInAnyOrderOfEvents() {
        for seed in UInt64(0)..<300 {
            var generator = SeededGenerator(seed: seed)
            let chunks = (0..<Int.random(in: 0...12, using: &generator)).map { _ in
                Int.random(in: 1...9, using: &generator)
            }
            let run = run(
                seed: seed, chunks: chunks, threads: Int.random(in: 1...6, using: &generator),
                streams: Int.random(in: 1...6, using: &generator), window: Int.random(in: 1...9, using: &generator))
            #expect(run.finished.sorted() == Array(chunks.indices), "seed \(seed)")
        }
    }

    /// Whatever the threads do, the first bad blob is the one that is reported, and those before it are finished.
    @Test func theFirstFailureIsAlwaysFound() {
        for seed in UInt64(0)..<300 {
            var generator = SeededGenerator(seed: seed)
            let chunks = (0..<12).map { _ in Int.random(in: 1...9, using: &generator) }
            let bad = Set((0..<3).map { _ in Int.random(in: 0..<12, using: &generator) })
            let run = run(
                seed: seed, chunks: chunks, threads: Int.random(in: 1...6, using: &generator),
                streams: Int.random(in: 1...6, using: &generator), window: Int.random(in: 1...9, using: &generator),
                bad: bad)
            #expect(run.failed.min()?.blob == bad.min(), "seed \(seed)")
            #expect(run.finished.filter { $0 < bad.min() ?? 0 }.sorted() == Array(0..<(bad.min() ?? 0)), "seed \(seed)")
        }
    }

    /// A thread with a blob of its own hashes it; more threads than blobs prepare for those that hash.
    @Test func threadsSpreadOverBlobs() {
        var schedule = ImportSchedule(chunks: [3, 3], streams: 4, window: 8)
        let taken = (0..<5).compactMap { _ in schedule.next() }
        #expect(taken.map(\.blob) == [0, 1, 0, 1, 0])
        #expect(taken.allSatisfy { $0.kind == .prepare })
        schedule.succeeded(taken[0])
        #expect(schedule.next() == Work(kind: .append, blob: 0, chunk: 0))
    }
}
