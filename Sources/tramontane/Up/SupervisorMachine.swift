/// What `up` does about its processes: events in, actions out, no I/O.
///
/// The coordinator is started first; when it listens, the workers are; when it says that the cluster serves, so does `up`.
/// The end goes the other way: workers drain, then the coordinator ends, and who takes too long is killed.
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
        /// The deadline set last has passed.
        case deadlinePassed
        /// These children could not be started.
        case startFailed([String])
    }

    enum Action: Equatable {
        case startCoordinator
        /// All of them, with the coordinator's address for workers.
        case startWorkers(listen: String)
        /// Print that the cluster serves.
        case announce(http: String, listen: String)
        case terminate([String])
        case kill([String])
        /// Wake up after so long; replaces the deadline set before.
        case setDeadline(milliseconds: Int)
        case log(String)
        /// The same, and what the process itself said last.
        case logWithLastWords(String, of: String)
        case end(status: Int32)
    }

    private enum State {
        case idle
        case startingCoordinator
        case startingWorkers(http: String, listen: String)
        case serving
        case stoppingWorkers(status: Int32)
        case stoppingCoordinator(status: Int32)
        case ended
    }

    static let coordinator = "coordinator"
    /// Longer than a worker takes to give its sequences up, shorter than what an init system waits for.
    static let workerDeadline = 10_000
    static let coordinatorDeadline = 5_000
    /// A start that takes longer is explained: at first after so long, and then now and again.
    static let firstPatience = 5_000
    static let patience = 60_000

    private let workers: [String]
    private var state = State.idle
    /// Names of the processes that run.
    private var running: Set<String> = []

    init(workers: [String]) {
        self.workers = workers
    }

    mutating func handle(_ event: Event) -> [Action] {
        switch event {
        case .start:
            state = .startingCoordinator
            running.insert(Self.coordinator)
            return [.startCoordinator]
        case .listening(let http, let listen):
            guard case .startingCoordinator = state else { return [] }
            state = .startingWorkers(http: http, listen: listen)
            running.formUnion(workers)
            return [.startWorkers(listen: listen), .setDeadline(milliseconds: Self.firstPatience)]
        case .serving:
            guard case .startingWorkers(let http, let listen) = state else { return [] }
            state = .serving
            return [.announce(http: http, listen: listen)]
        case .exited(let name, let exit):
            return exited(name, exit)
        case .stopAsked:
            return stopAsked()
        case .deadlinePassed:
            return deadlinePassed()
        case .startFailed(let names):
            running.subtract(names)
            return stop(status: 1)
        }
    }

    private func deadlinePassed() -> [Action] {
        switch state {
        case .startingWorkers:
            let waiting = "the cluster does not serve yet; the coordinator said last"
            return [
                .logWithLastWords(waiting, of: Self.coordinator), .setDeadline(milliseconds: Self.patience),
            ]
        case .stoppingWorkers, .stoppingCoordinator:
            return [.log("\(list(running)) did not end in time")] + killAll()
        case .idle, .startingCoordinator, .serving, .ended:
            return []
        }
    }

    private mutating func exited(_ name: String, _ exit: ProcessExit) -> [Action] {
        guard running.remove(name) != nil else { return [] }
        switch state {
        case .idle, .ended:
            return []
        case .startingCoordinator, .startingWorkers:
            return [.logWithLastWords("\(name) failed to start: \(exit)", of: name)] + stop(status: 1)
        case .serving:
            let log = Action.logWithLastWords("\(name) died: \(exit)", of: name)
            return name == Self.coordinator ? [log] + stop(status: 1) : [log]
        case .stoppingWorkers(let status):
            return (exit == .status(0) ? [] : [.log("\(name): \(exit)")]) + goOnStopping(status)
        case .stoppingCoordinator(let status):
            return (exit == .status(0) ? [] : [.log("\(name): \(exit)")]) + goOnStopping(status)
        }
    }

    private mutating func stopAsked() -> [Action] {
        switch state {
        case .stoppingWorkers, .stoppingCoordinator:
            // Asked twice: no more patience.
            return killAll()
        case .ended:
            return []
        case .idle, .startingCoordinator, .startingWorkers, .serving:
            return stop(status: 0)
        }
    }

    private mutating func stop(status: Int32) -> [Action] {
        switch state {
        case .stoppingWorkers, .stoppingCoordinator, .ended:
            return []
        case .idle, .startingCoordinator, .startingWorkers, .serving:
            state = .stoppingWorkers(status: status)
            let names = running.filter { $0 != Self.coordinator }.sorted()
            if names.isEmpty { return goOnStopping(status) }
            return [.terminate(names), .setDeadline(milliseconds: Self.workerDeadline)]
        }
    }

    private mutating func goOnStopping(_ status: Int32) -> [Action] {
        if running.isEmpty {
            state = .ended
            return [.end(status: status)]
        }
        guard case .stoppingWorkers = state, running == [Self.coordinator] else { return [] }
        state = .stoppingCoordinator(status: status)
        return [.terminate([Self.coordinator]), .setDeadline(milliseconds: Self.coordinatorDeadline)]
    }

    /// Nobody is left to drain for: the rest goes at once.
    private func killAll() -> [Action] {
        running.isEmpty ? [] : [.kill(running.sorted())]
    }

    private func list(_ names: Set<String>) -> String {
        names.sorted().joined(separator: ", ")
    }
}
