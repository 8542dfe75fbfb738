import Engine
import Synchronization
import TestSupport
import Testing

@Suite struct ThreadPoolTests {
    @Test(arguments: [1, 2, 5])
    func everyItemOnce(threads: Int) {
        let pool = ThreadPool(threads: threads)
        #expect(pool.threads == threads)
        let seed: UInt64 = 5
        var random = SeededGenerator(seed: seed)
        for _ in 0..<300 {
            let items = Int.random(in: 0...40, using: &random)
            // Each item writes its own place: the pool's end of a job makes the writes visible.
            let counts = UnsafeMutablePointer<Int>.allocate(capacity: 64)
            counts.initialize(repeating: 0, count: 64)
            defer { counts.deallocate() }
            pool.run(items: items) { counts[$0] += 1 }
            #expect((0..<64).allSatisfy { counts[$0] == ($0 < items ? 1 : 0) }, "seed \(seed), \(items) items")
        }
    }

    /// Two items that wait for each other end only if two threads work on them at once.
    @Test func theCallerAndAHelperWorkTogether() {
        let pool = ThreadPool(threads: 2)
        let arrived = Atomic<Int>(0)
        pool.run(items: 2) { _ in
            arrived.add(1, ordering: .sequentiallyConsistent)
            while arrived.load(ordering: .sequentiallyConsistent) < 2 {}
        }
        #expect(arrived.load(ordering: .relaxed) == 2)
    }

    @Test func fewerThanOneThreadIsOne() {
        #expect(ThreadPool(threads: -3).threads == 1)
        #expect(ThreadPool(threads: 0).threads == 1)
        ThreadPool(threads: 2).run(items: -1) { _ in Issue.record("no item was asked for") }
    }
}
