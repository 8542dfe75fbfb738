import CKernels
import Glibc
import Synchronization

/// Threads for compute: the caller of `run` and `threads - 1` helpers take a job's items off one counter.
///
/// Helpers wait for the next job by looking for it for a moment, since a decode step brings one every few microseconds,
/// then sleep, so an idle pool uses no processor time. Where other threads want the helpers' processors, they leave them at
/// once, and for a moment the caller works alone. The pool is confined to the thread that uses it.
package final class ThreadPool {
    /// More than any machine has processors: a slip of the pen in a setting must not fill the process table.
    package static let maximumThreads = 1024

    /// Threads that work, the calling one included.
    package let threads: Int
    private let state = State()
    private var helpers: [pthread_t] = []

    /// Fewer threads result where the system refuses to start as many; `threads` says how many there are.
    package init(threads: Int) {
        for thread in 1..<min(max(threads, 1), Self.maximumThreads) {
            var handle = pthread_t()
            let argument = Unmanaged.passRetained(Helper(thread: thread, state: state))
            let status = pthread_create(
                &handle, nil,
                { argument in
                    guard let argument else { return nil }
                    let helper = Unmanaged<Helper>.fromOpaque(argument).takeRetainedValue()
                    helper.state.help(thread: helper.thread)
                    return nil
                }, argument.toOpaque())
            guard status == 0 else {
                argument.release()
                break
            }
            helpers.append(handle)
        }
        self.threads = helpers.count + 1
    }

    deinit {
        state.stop()
        for helper in helpers { pthread_join(helper, nil) }
    }

    /// Calls `body` once for each index in `0..<items`, in any order and on any of the pool's threads, and returns when
    /// all calls have returned.
    package func run(items: Int, _ body: (Int) -> Void) {
        run(items: items) { item, _ in body(item) }
    }

    /// The same; `body` also gets the number of the thread that it runs on, 0 being the calling one, for what each thread has
    /// of its own.
    func run(items: Int, _ body: (_ item: Int, _ thread: Int) -> Void) {
        guard items > 1, !helpers.isEmpty, items <= Int(UInt32.max) else {
            for item in 0..<max(items, 0) { body(item, 0) }
            return
        }
        withoutActuallyEscaping(body) { body in
            withUnsafePointer(to: body) { state.run(items: items, body: $0) }
        }
    }
}

extension ThreadPool {
    /// What a helper's thread starts with.
    private final class Helper {
        let thread: Int
        let state: State

        init(thread: Int, state: State) {
            self.thread = thread
            self.state = state
        }
    }

    /// What the pool's threads share.
    ///
    /// `@unchecked Sendable`: `job` is written only while no item is open, before `ticket` publishes it, and read only by a
    /// thread that has taken an item off `ticket`; the job cannot end before that item is counted in `finished`.
    fileprivate final class State: @unchecked Sendable {
        private typealias Body = (Int, Int) -> Void

        /// The number of the job (upper 32 bits) and how many of its items nobody has taken (lower 32 bits). One word, so
        /// that a helper that comes late can never take an item of another job than the one it saw.
        private let ticket = Atomic<UInt64>(0)
        private let finished = Atomic<Int>(0)
        /// Helpers that sleep or are about to. Who takes one off owes `work` a post.
        private let sleepers = Atomic<Int>(0)
        private let callerSleeps = Atomic<Bool>(false)
        private let stopping = Atomic<Bool>(false)
        /// Until then no helper is woken: the last one found its processor taken.
        private let crowdedUntil = Atomic<UInt64>(0)
        private var job: (items: Int, body: UnsafePointer<Body>)?

        private let work = Semaphore()
        private let done = Semaphore()

        /// A job that comes while the processors are taken is done by its caller alone, and is soon tried again with help.
        private static let crowdedNanoseconds: UInt64 = 1_000_000

        func run(items: Int, body: UnsafePointer<(Int, Int) -> Void>) {
            job = (items, body)
            finished.store(0, ordering: .relaxed)
            let number = (ticket.load(ordering: .relaxed) >> 32) &+ 1
            // Sequentially consistent with the sleepers' count: either this sees the sleeper, or the sleeper this job.
            ticket.store(number << 32 | UInt64(items), ordering: .sequentiallyConsistent)
            wake(atMost: items - 1)
            while take(thread: 0) {}
            var patience = Patience()
            while finished.load(ordering: .acquiring) != items {
                guard patience.ends() != nil else { continue }
                callerSleeps.store(true, ordering: .sequentiallyConsistent)
                if finished.load(ordering: .sequentiallyConsistent) == items,
                    callerSleeps.exchange(false, ordering: .sequentiallyConsistent)
                {
                    break
                }
                // A helper that was slow to leave the job before may post too, hence the loop.
                done.wait()
            }
            job = nil
        }

        private func wake(atMost most: Int) {
            var count = sleepers.load(ordering: .sequentiallyConsistent)
            guard count > 0, Patience.now() >= crowdedUntil.load(ordering: .relaxed) else { return }
            var woken = 0
            while count > 0, woken < most {
                let (exchanged, original) = sleepers.compareExchange(
                    expected: count, desired: count - 1, ordering: .sequentiallyConsistent)
                count = exchanged ? count - 1 : original
                guard exchanged else { continue }
                work.post()
                woken += 1
            }
        }

        /// Takes one item and works on it; false when there is none.
        private func take(thread: Int) -> Bool {
            var seen = ticket.load(ordering: .acquiring)
            while seen & 0xFFFF_FFFF != 0 {
                let (exchanged, original) = ticket.compareExchange(
                    expected: seen, desired: seen &- 1, ordering: .acquiringAndReleasing)
                guard exchanged else {
                    seen = original
                    continue
                }
                guard let job else { return false }
                job.body.pointee(job.items - Int(seen & 0xFFFF_FFFF), thread)
                if finished.add(1, ordering: .sequentiallyConsistent).newValue == job.items,
                    callerSleeps.load(ordering: .sequentiallyConsistent),
                    callerSleeps.exchange(false, ordering: .sequentiallyConsistent)
                {
                    done.post()
                }
                return true
            }
            return false
        }

        /// A helper's life.
        func help(thread: Int) {
            var patience = Patience()
            while !stopping.load(ordering: .relaxed) {
                if take(thread: thread) {
                    patience = Patience()
                } else if let end = patience.ends() {
                    if end == .crowded {
                        crowdedUntil.store(Patience.now() + Self.crowdedNanoseconds, ordering: .relaxed)
                    }
                    sleep()
                    patience = Patience()
                }
            }
        }

        private func sleep() {
            sleepers.add(1, ordering: .sequentiallyConsistent)
            if ticket.load(ordering: .sequentiallyConsistent) & 0xFFFF_FFFF != 0
                || stopping.load(ordering: .sequentiallyConsistent)
            {
                var count = sleepers.load(ordering: .relaxed)
                while count > 0 {
                    let (exchanged, original) = sleepers.compareExchange(
                        expected: count, desired: count - 1, ordering: .sequentiallyConsistent)
                    if exchanged { return }
                    count = original
                }
            }
            work.wait()
        }

        func stop() {
            stopping.store(true, ordering: .sequentiallyConsistent)
            for _ in 0..<sleepers.exchange(0, ordering: .sequentiallyConsistent) { work.post() }
        }
    }

    /// How long a thread looks for something before it sleeps.
    private struct Patience {
        enum End {
            /// It did not come in time.
            case late
            /// Others want the processor.
            case crowded
        }

        /// Longer than from one product of a decode step to the next, and than from one step of a small model to the next
        /// where the coordinator is near.
        private static let nanoseconds: UInt64 = 100_000
        /// Where threads outnumber processors, the one that is waited for may need this one's. A yield that comes back
        /// later than this had somebody to yield to.
        private static let yieldNanoseconds: UInt64 = 20_000
        /// A few microseconds of looks.
        private static let looksPerYield = 64

        private var looks = 0
        private var deadline: UInt64 = 0

        /// One look has found nothing: nil to look again.
        mutating func ends() -> End? {
            tk_pause()
            looks += 1
            guard looks.isMultiple(of: Self.looksPerYield) else { return nil }
            let start = Self.now()
            if deadline == 0 { deadline = start + Self.nanoseconds }
            guard start < deadline else { return .late }
            sched_yield()
            return Self.now() - start > Self.yieldNanoseconds ? .crowded : nil
        }

        static func now() -> UInt64 {
            var time = timespec()
            clock_gettime(CLOCK_MONOTONIC, &time)
            return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        }
    }

    /// glibc's semaphore, which is a futex and a count.
    private final class Semaphore: @unchecked Sendable {
        private let semaphore: UnsafeMutablePointer<sem_t> = .allocate(capacity: 1)

        init() { sem_init(semaphore, 0, 0) }

        deinit {
            sem_destroy(semaphore)
            semaphore.deallocate()
        }

        func post() { sem_post(semaphore) }

        func wait() {
            while sem_wait(semaphore) != 0, errno == EINTR {}
        }
    }
}
