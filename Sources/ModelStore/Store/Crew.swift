import Foundation

/// Work in pieces: a value that knows which piece may be done now. It does nothing itself.
protocol Schedule: Sendable {
    /// The order decides which of several errors is reported: the one of the first piece.
    associatedtype Work: Comparable & Sendable

    /// A piece that nobody has taken yet; nil where there is none as long as none that was taken ends.
    mutating func next() -> Work?
    mutating func succeeded(_ work: Work)
    mutating func failed(_ work: Work)
}

/// Pieces that do not depend on each other.
struct InOrder: Schedule {
    private var rest: Range<Int>

    init(count: Int) { rest = 0..<count }

    mutating func next() -> Int? { rest.popFirst() }

    mutating func succeeded(_ work: Int) {}

    mutating func failed(_ work: Int) {}
}

/// What a piece of work was for progress.
struct Advance: Sendable {
    var item = ""
    var items = 0
    var bytes = 0
}

/// Threads that work off a schedule, while the calling thread tells how far they are.
///
/// `@unchecked Sendable`: everything that changes is read and written under `condition`.
final class Crew<Plan: Schedule>: @unchecked Sendable {
    typealias Worker = (Plan.Work) throws -> Advance

    private let condition = NSCondition()
    private var plan: Plan
    private var progress: StoreProgress
    /// Pieces that were taken and have not ended.
    private var taken = 0
    /// Threads that have not ended.
    private var threads: Int
    private var failure: (work: Plan.Work, error: any Error)?

    private init(_ plan: Plan, threads: Int, progress: StoreProgress) {
        self.plan = plan
        self.threads = threads
        self.progress = progress
    }

    /// A thread for each processor, and two more, so that the processors have work while some threads wait for the disk.
    static var defaultThreads: Int { ProcessInfo.processInfo.activeProcessorCount + 2 }

    /// Returns when all pieces are done, or when one has failed and all before it are done.
    ///
    /// - Parameters:
    ///   - progress: how far the work has come before it begins.
    ///   - worker: called once on each thread; what it returns does that thread's pieces and may keep memory for them.
    ///   - report: called on the calling thread, when something was done.
    /// - Returns: what the first piece that failed threw.
    static func run(
        _ plan: Plan, threads: Int = defaultThreads, progress: StoreProgress,
        worker: @escaping @Sendable () -> Worker, report: (StoreProgress) -> Void
    ) -> (any Error)? {
        let crew = Crew(plan, threads: threads, progress: progress)
        for _ in 0..<threads {
            Thread { crew.work(worker()) }.start()
        }
        crew.watch(report)
        return crew.failure?.error
    }

    private func watch(_ report: (StoreProgress) -> Void) {
        var told: StoreProgress?
        condition.lock()
        while true {
            let now = progress
            let ended = threads == 0
            if now != told {
                condition.unlock()
                report(now)
                condition.lock()
                told = now
            } else if ended {
                break
            } else {
                condition.wait()
            }
        }
        condition.unlock()
    }

    private func work(_ worker: Worker) {
        condition.lock()
        while true {
            guard let piece = plan.next() else {
                // Only the end of a piece can make another one possible.
                if taken == 0 { break }
                condition.wait()
                continue
            }
            taken += 1
            condition.unlock()
            let result = Result { try worker(piece) }
            condition.lock()
            taken -= 1
            switch result {
            case .success(let advance):
                plan.succeeded(piece)
                progress.item = advance.item
                progress.itemsDone += advance.items
                progress.bytesDone += advance.bytes
            case .failure(let error):
                plan.failed(piece)
                if failure.map({ piece < $0.work }) ?? true { failure = (piece, error) }
            }
            condition.broadcast()
        }
        threads -= 1
        condition.broadcast()
        condition.unlock()
    }
}
