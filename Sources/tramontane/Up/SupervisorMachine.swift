/// What `up`, and `worker` with several processes, do about them: events and the time in, actions out, no I/O.
///
/// The coordinator is started first; when it listens, the workers are; when it says that the cluster serves, so does `up`. A
/// worker that ends after that, however it does, is started again, each time after a longer while: the cluster cannot serve
/// without it. The end begins with the coordinator, so that requests end with its word and not with the loss of a worker;
/// then the workers end. Who takes too long is killed.
///
/// Where the coordinator is somewhere else, workers start at once. One that ends by itself with an error ends all, as it
/// would end alone: it was started wrongly. The start again is for those that a signal killed; one that was told to end stays
/// away.
struct SupervisorMachine {
    enum Event: Equatable {
        case start
        /// The coordinator's listeners are open.
        case listening(http: String, listen: String)
        /// The cluster serves.
        case serving
        case exited(name: String, ProcessExit)
        /// SIGINT, SIGTERM or SIGHUP came.
        case stopAsked
        /// ``deadline`` is here.
        case deadlinePassed
        /// These children could not be started.
        case startFailed([String])
    }

    enum Action: Equatable {
        case startCoordinator
        /// With the coordinator's address for workers.
        case startWorkers([String], listen: String)
        /// Print that the cluster serves.
        case announce(http: String, listen: String)
        case terminate([String])
        case kill([String])
        case log(String)
        /// The same, and what the process itself said of its end or, where it has not ended, of its troubles.
        case logWithLastWords(String, of: String, after: ProcessExit? = nil)
        case end(status: Int32)
    }

    private enum State {
        case idle
        case startingCoordinator
        case startingWorkers(http: String, listen: String)
        case serving(listen: String)
        case stoppingCoordinator(status: Int32)
        case stoppingWorkers(status: Int32)
        case ended
    }

    /// A worker's present process, or the wait for its next one.
    private struct Life {
        var startedAt = 0
        /// How long its next death keeps it away.
        var backOff = SupervisorMachine.firstBackOff
        /// When it is to be started again; nil while it runs, or stays away for good.
        var returnsAt: Int?
    }

    static let coordinator = "coordinator"
    // All times are in milliseconds.
    /// A little longer than each gives itself for its end (``CoordinatorCommand/graceSeconds``,
    /// ``WorkerCommand/graceSeconds``). Together they stay below the 10 s after which container runtimes kill.
    static let coordinatorDeadline = 4_000
    static let workerDeadline = 5_000
    /// A start that takes longer is explained: at first after so long, and then now and again.
    static let firstPatience = 5_000
    static let patience = 60_000
    /// How long a worker that died stays away: doubled with every death, until a process has lived for `goodLife`.
    static let firstBackOff = 1_000
    static let lastBackOff = 30_000
    static let goodLife = 60_000
    /// Who asks again after so long has no more patience; until then it is the same ask: `timeout`, and a terminal, signal a
    /// process and its group.
    static let sameAsk = 500

    private let workers: [String]
    private let hasCoordinator: Bool
    private var state = State.idle
    /// Names of the processes that run.
    private var running: Set<String> = []
    private var lives: [String: Life] = [:]
    private var stopBegan = 0
    /// When the present state has taken too long.
    private var patienceEnds: Int?

    init(workers: [String], hasCoordinator: Bool = true) {
        self.workers = workers
        self.hasCoordinator = hasCoordinator
    }

    /// When ``Event/deadlinePassed`` is due, in the same milliseconds as `now`; nil for never.
    var deadline: Int? {
        ([patienceEnds] + lives.values.map(\.returnsAt)).compactMap { $0 }.min()
    }

    /// - Parameter now: milliseconds of a clock that only goes forward
    mutating func handle(_ event: Event, now: Int) -> [Action] {
        switch event {
        case .start where !hasCoordinator:
            state = .serving(listen: "")
            return begin(workers, listen: "", now: now)
        case .start:
            state = .startingCoordinator
            running.insert(Self.coordinator)
            return [.startCoordinator]
        case .listening(let http, let listen):
            guard case .startingCoordinator = state else { return [] }
            state = .startingWorkers(http: http, listen: listen)
            patienceEnds = now + Self.firstPatience
            return begin(workers, listen: listen, now: now)
        case .serving:
            guard case .startingWorkers(let http, let listen) = state else { return [] }
            state = .serving(listen: listen)
            patienceEnds = nil
            return [.announce(http: http, listen: listen)]
        case .exited(let name, let exit):
            return exited(name, exit, now: now)
        case .stopAsked:
            return stopAsked(now: now)
        case .deadlinePassed:
            return deadlinePassed(now: now)
        case .startFailed(let names):
            return startFailed(names, now: now)
        }
    }

    private mutating func begin(_ names: [String], listen: String, now: Int) -> [Action] {
        running.formUnion(names)
        for name in names {
            lives[name, default: Life()].startedAt = now
            lives[name]?.returnsAt = nil
        }
        return names.isEmpty ? [] : [.startWorkers(names, listen: listen)]
    }

    private mutating func deadlinePassed(now: Int) -> [Action] {
        if case .serving(let listen) = state {
            let due = lives.filter { $0.value.returnsAt.map { $0 <= now } ?? false }.keys.sorted()
            return due.map { .log("starting \($0) again") } + begin(due, listen: listen, now: now)
        }
        guard let patienceEnds, patienceEnds <= now else { return [] }
        self.patienceEnds = nil
        switch state {
        case .startingWorkers:
            self.patienceEnds = now + Self.patience
            return [.logWithLastWords("the cluster does not serve yet", of: Self.coordinator)]
        case .stoppingCoordinator:
            return [.log("\(Self.coordinator) did not end in time"), .kill([Self.coordinator])]
        case .stoppingWorkers:
            return [.log("\(running.sorted().joined(separator: ", ")) did not end in time")] + killAll()
        case .idle, .startingCoordinator, .serving, .ended:
            return []
        }
    }

    private mutating func exited(_ name: String, _ exit: ProcessExit, now: Int) -> [Action] {
        guard running.remove(name) != nil else { return [] }
        switch state {
        case .idle, .ended:
            return []
        case .startingCoordinator, .startingWorkers:
            return [.logWithLastWords("\(name) failed to start: \(exit)", of: name, after: exit)]
                + stop(status: 1, now: now)
        case .serving:
            if name == Self.coordinator {
                return [.logWithLastWords("\(name) died: \(exit)", of: name, after: exit)] + stop(status: 1, now: now)
            }
            guard hasCoordinator || exit != .status(0) else {
                let log = Action.log("\(name): \(exit) and is not started again")
                let isLast = running.isEmpty && lives.values.allSatisfy { $0.returnsAt == nil }
                return [log] + (isLast ? end(0) : [])
            }
            if !hasCoordinator, case .status(let status) = exit {
                return [.log("\(name): \(exit)")] + stop(status: status, now: now)
            }
            let away = sendAway(name, now: now)
            let message = "\(name) died: \(exit); it is started again in \(away / 1000) s"
            if exit == .status(0) { return [.log(message)] }
            return [.logWithLastWords(message, of: name, after: exit)]
        case .stoppingCoordinator(let status):
            let log = exit == .status(0) ? [] : [Action.log("\(name): \(exit)")]
            return log + (name == Self.coordinator ? stopWorkers(status, now: now) : [])
        case .stoppingWorkers(let status):
            let log = exit == .status(0) ? [] : [Action.log("\(name): \(exit)")]
            return log + (running.isEmpty ? end(status) : [])
        }
    }

    /// - Returns: for how long the worker stays away.
    private mutating func sendAway(_ name: String, now: Int) -> Int {
        var life = lives[name] ?? Life()
        let away = now - life.startedAt >= Self.goodLife ? Self.firstBackOff : life.backOff
        life.backOff = min(2 * away, Self.lastBackOff)
        life.returnsAt = now + away
        lives[name] = life
        return away
    }

    private mutating func startFailed(_ names: [String], now: Int) -> [Action] {
        running.subtract(names)
        guard case .serving = state else { return stop(status: 1, now: now) }
        return names.map { name in
            let away = sendAway(name, now: now)
            return .log("\(name) is tried again in \(away / 1000) s")
        }
    }

    private mutating func stopAsked(now: Int) -> [Action] {
        switch state {
        case .stoppingWorkers, .stoppingCoordinator:
            return now - stopBegan < Self.sameAsk ? [] : killAll()
        case .ended:
            return []
        case .idle, .startingCoordinator, .startingWorkers, .serving:
            return stop(status: 0, now: now)
        }
    }

    private mutating func stop(status: Int32, now: Int) -> [Action] {
        switch state {
        case .stoppingWorkers, .stoppingCoordinator, .ended:
            return []
        case .idle, .startingCoordinator, .startingWorkers, .serving:
            lives = [:]
            stopBegan = now
            guard running.contains(Self.coordinator) else { return stopWorkers(status, now: now) }
            state = .stoppingCoordinator(status: status)
            patienceEnds = now + Self.coordinatorDeadline
            return [.terminate([Self.coordinator])]
        }
    }

    private mutating func stopWorkers(_ status: Int32, now: Int) -> [Action] {
        if running.isEmpty { return end(status) }
        state = .stoppingWorkers(status: status)
        patienceEnds = now + Self.workerDeadline
        return [.terminate(running.sorted())]
    }

    private mutating func end(_ status: Int32) -> [Action] {
        state = .ended
        patienceEnds = nil
        return [.end(status: status)]
    }

    /// Nobody is left to be orderly for: the rest goes at once.
    private func killAll() -> [Action] {
        running.isEmpty ? [] : [.kill(running.sorted())]
    }
}
