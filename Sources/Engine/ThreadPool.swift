import Glibc
import Synchronization

/// Threads for compute: the caller of `run` and `threads - 1` helpers take a job's items off one counter.
///
/// Helpers wait for the next job by looking for it for a moment, since a decode step brings one every few microseconds,
/// then sleep on a condition, so an idle pool uses no processor time. The pool is confined to the thread that uses it.
package final class ThreadPool {
    /// More than any machine has processors: a slip of the pen in a setting must not fill the process table.
    package static let maximumThreads = 1024

    /// Threads that work, the calling one included.
    package let threads: Int
    private let state = State()
    private var helpers: [pthread_t] = []

    /// Fewer threads result where the system refuses to start as many; `threads` says how many there are.
    package init(threads: Int) {
        for _ in 1..<min(max(threads, 1), Self.maximumThreads) {
            var handle = pthread_t()
            let argument = Unmanaged.passRetained(state)
            let status = pthread_create(
                &handle, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<State>.fromOpaque(argument).takeRetainedValue().help()
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
        guard items > 1, !helpers.isEmpty, items <= Int(UInt32.max) else {
            for item in 0..<max(items, 0) { body(item) }
            return
        }
        withoutActuallyEscaping(body) { body in
            withUnsafePointer(to: body) { state.run(items: items, body: $0) }
        }
    }
}

extension ThreadPool {
    /// What the pool's threads share.
    ///
    /// `@unchecked Sendable`: `job` is written only while no item is open, before `ticket` publishes it, and read only by a
    /// thread that has taken an item off `ticket`; the job cannot end before that item is counted in `finished`.
    fileprivate final class State: @unchecked Sendable {
        private typealias Body = (Int) -> Void

        /// The number of the job (upper 32 bits) and how many of its items nobody has taken (lower 32 bits). One word, so
        /// that a helper that comes late can never take an item of another job than the one it saw.
        private let ticket = Atomic<UInt64>(0)
        private let finished = Atomic<Int>(0)
        private let sleepers = Atomic<Int>(0)
        private let callerSleeps = Atomic<Bool>(false)
        private let stopping = Atomic<Bool>(false)
        private var job: (items: Int, body: UnsafePointer<Body>)?

        private let lock: UnsafeMutablePointer<pthread_mutex_t> = .allocate(capacity: 1)
        private let work: UnsafeMutablePointer<pthread_cond_t> = .allocate(capacity: 1)
        private let done: UnsafeMutablePointer<pthread_cond_t> = .allocate(capacity: 1)

        /// Looks for a new job before sleeping: some tens of microseconds, the time between two products of a decode step.
        private static let spins = 1024
        /// Looks between two offers of the processor to others: where threads outnumber processors, the one that is waited
        /// for may need this one.
        private static let spinsPerYield = 16

        init() {
            pthread_mutex_init(lock, nil)
            pthread_cond_init(work, nil)
            pthread_cond_init(done, nil)
        }

        deinit {
            pthread_cond_destroy(done)
            pthread_cond_destroy(work)
            pthread_mutex_destroy(lock)
            done.deallocate()
            work.deallocate()
            lock.deallocate()
        }

        func run(items: Int, body: UnsafePointer<(Int) -> Void>) {
            job = (items, body)
            finished.store(0, ordering: .relaxed)
            let number = (ticket.load(ordering: .relaxed) >> 32) &+ 1
            // Sequentially consistent with the sleepers' count: either this sees the sleeper, or the sleeper this job.
            ticket.store(number << 32 | UInt64(items), ordering: .sequentiallyConsistent)
            if sleepers.load(ordering: .sequentiallyConsistent) > 0 {
                pthread_mutex_lock(lock)
                pthread_cond_broadcast(work)
                pthread_mutex_unlock(lock)
            }
            while take() {}
            var spins = Self.spins
            while finished.load(ordering: .acquiring) != items {
                guard Self.exhausts(&spins) else { continue }
                pthread_mutex_lock(lock)
                callerSleeps.store(true, ordering: .sequentiallyConsistent)
                while finished.load(ordering: .sequentiallyConsistent) != items { pthread_cond_wait(done, lock) }
                callerSleeps.store(false, ordering: .relaxed)
                pthread_mutex_unlock(lock)
                break
            }
            job = nil
        }

        /// Takes one item and works on it; false when there is none.
        private func take() -> Bool {
            var seen = ticket.load(ordering: .acquiring)
            while seen & 0xFFFF_FFFF != 0 {
                let (exchanged, original) = ticket.compareExchange(
                    expected: seen, desired: seen &- 1, ordering: .acquiringAndReleasing)
                guard exchanged else {
                    seen = original
                    continue
                }
                guard let job else { return false }
                job.body.pointee(job.items - Int(seen & 0xFFFF_FFFF))
                if finished.add(1, ordering: .sequentiallyConsistent).newValue == job.items,
                    callerSleeps.load(ordering: .sequentiallyConsistent)
                {
                    pthread_mutex_lock(lock)
                    pthread_cond_signal(done)
                    pthread_mutex_unlock(lock)
                }
                return true
            }
            return false
        }

        /// A helper's life.
        func help() {
            var spins = Self.spins
            while !stopping.load(ordering: .relaxed) {
                if take() {
                    spins = Self.spins
                    continue
                }
                guard Self.exhausts(&spins) else { continue }
                pthread_mutex_lock(lock)
                sleepers.add(1, ordering: .sequentiallyConsistent)
                while ticket.load(ordering: .sequentiallyConsistent) & 0xFFFF_FFFF == 0,
                    !stopping.load(ordering: .relaxed)
                {
                    pthread_cond_wait(work, lock)
                }
                sleepers.subtract(1, ordering: .sequentiallyConsistent)
                pthread_mutex_unlock(lock)
                spins = Self.spins
            }
        }

        /// One look less; true when none is left.
        private static func exhausts(_ spins: inout Int) -> Bool {
            spins -= 1
            if spins.isMultiple(of: spinsPerYield) { sched_yield() }
            return spins <= 0
        }

        func stop() {
            pthread_mutex_lock(lock)
            stopping.store(true, ordering: .relaxed)
            pthread_cond_broadcast(work)
            pthread_mutex_unlock(lock)
        }
    }
}
