import Glibc

/// Performs what ``SupervisorMachine`` decides: starts processes, waits for signals and for what the coordinator says.
final class Supervisor {
    /// The subcommand that this is, for what it says.
    private let command: String
    /// Without one, children write to this process's standard error.
    private let directory: StateDirectory?
    private let coordinatorArguments: [String]
    /// A worker's arguments, from its name and the coordinator's address.
    private let workerArguments: (_ name: String, _ coordinator: String) -> [String]

    private var machine: SupervisorMachine
    private var state: ClusterState
    private var children: [ChildProcess] = []
    private var coordinatorLines: LineReader?
    private let clock = ContinuousClock()
    private let began = ContinuousClock.now
    private var status: Int32?
    private let supervision: (read: Int32, write: Int32)

    /// - Parameter coordinatorArguments: nil where the coordinator is somewhere else.
    init(
        command: String, workers: [String], model: String, directory: StateDirectory?, coordinatorArguments: [String]?,
        workerArguments: @escaping (_ name: String, _ coordinator: String) -> [String]
    ) throws {
        supervision = try Descriptors.pipe()
        machine = SupervisorMachine(workers: workers, hasCoordinator: coordinatorArguments != nil)
        state = ClusterState(processID: getpid(), model: model)
        self.command = command
        self.directory = directory
        self.coordinatorArguments = coordinatorArguments ?? []
        self.workerArguments = workerArguments
    }

    /// Runs the cluster until it is told to stop.
    /// - Returns: the status to end with.
    func run() throws -> Int32 {
        let signals = try SignalPipe([SIGINT, SIGTERM, SIGHUP, SIGCHLD])
        try directory?.write(state)
        try handle(.start)
        while true {
            if let status { return status }
            var descriptors = [pollfd(fd: signals.readDescriptor, events: Int16(POLLIN), revents: 0)]
            if coordinatorLines != nil, let coordinator = children.first {
                descriptors.append(pollfd(fd: coordinator.output, events: Int16(POLLIN), revents: 0))
            }
            let timeout = machine.deadline.map { Int32(clamping: max(0, $0 - now)) } ?? -1
            if poll(&descriptors, nfds_t(descriptors.count), timeout) < 0, errno != EINTR {
                throw CommandError.failure("poll: \(String(cString: strerror(errno)))")
            }
            if descriptors.count > 1, descriptors[1].revents != 0 { try readCoordinator() }
            for signal in signals.take() where signal != SIGCHLD { try handle(.stopAsked) }
            try collectExits()
            if let deadline = machine.deadline, deadline <= now { try handle(.deadlinePassed) }
        }
    }

    /// Milliseconds since the start, rounded down.
    private var now: Int {
        let (seconds, attoseconds) = (clock.now - began).components
        return Int(seconds) * 1000 + Int(attoseconds / 1_000_000_000_000_000)
    }

    private func handle(_ event: SupervisorMachine.Event) throws {
        try perform(machine.handle(event, now: now))
    }

    private func readCoordinator() throws {
        guard let lines = try coordinatorLines?.available() else {
            coordinatorLines = nil
            return
        }
        for line in lines {
            guard let report = CoordinatorReport(line: String(decoding: line, as: UTF8.self)) else { continue }
            switch report.event {
            case .listening:
                state.http = report.http
                state.listen = report.listen
                try handle(.listening(http: report.http, listen: report.listen))
            case .ready:
                try handle(.serving)
            }
        }
    }

    private func collectExits() throws {
        for (index, child) in children.enumerated() where state.children[index].state == "running" {
            guard let exit = child.takeExit() else { continue }
            state.children[index].state = exit == .status(0) ? "ended" : exit.description
            writeState()
            try handle(.exited(name: child.name, exit))
        }
    }

    private func perform(_ actions: [SupervisorMachine.Action]) throws {
        for action in actions {
            switch action {
            case .startCoordinator:
                let name = SupervisorMachine.coordinator
                if try !start(name, coordinatorArguments, reports: true) { try handle(.startFailed([name])) }
            case .startWorkers(let names, let listen):
                for (index, name) in names.enumerated() {
                    if try !start(name, workerArguments(name, listen), reports: false) {
                        try handle(.startFailed(Array(names[index...])))
                        break
                    }
                }
            case .announce(let http, let listen):
                state.isReady = true
                writeState()
                // A closed standard output is no reason to end the cluster.
                try? StandardOutput.write("ready http=\(http) listen=\(listen)\n")
            case .terminate(let names):
                send(SIGTERM, to: names)
            case .kill(let names):
                send(SIGKILL, to: names)
            case .log(let message):
                say(message)
            case .logWithLastWords(let message, let name, let exit):
                guard let log = directory?.log(of: name) else {
                    say(message)
                    continue
                }
                let begin = children.first { $0.name == name }?.logBegin ?? 0
                let words = StateDirectory.lastWords(of: log, from: begin, after: exit).map { ": \($0)" } ?? ""
                say("\(message); see \(log)\(words)")
            case .end(let status):
                state.isReady = false
                writeState()
                self.status = status
            }
        }
    }

    /// A full disk is no reason to stop serving.
    private func writeState() {
        do {
            try directory?.write(state)
        } catch {
            say(error.message)
        }
    }

    private func say(_ message: String) {
        StandardError.write("tramontane \(command): \(message)\n")
    }

    /// - Returns: whether the child runs; why not was said.
    private func start(_ name: String, _ arguments: [String], reports: Bool) throws -> Bool {
        let log = directory?.log(of: name)
        let place = children.firstIndex { $0.name == name }
        do {
            // What a predecessor said last is why it died.
            let child = try ChildProcess.start(
                name, arguments: arguments, log: log, continuesLog: place != nil, supervision: supervision.read,
                reports: reports)
            let entry = ClusterState.Child(name: name, processID: child.processID, log: log ?? "", state: "running")
            if let place {
                children[place] = child
                state.children[place] = entry
            } else {
                children.append(child)
                state.children.append(entry)
            }
            if reports { coordinatorLines = LineReader(child.output) }
            writeState()
            return true
        } catch let error as CommandError {
            say(error.message)
            return false
        }
    }

    private func send(_ signal: Int32, to names: [String]) {
        for (index, child) in children.enumerated()
        where names.contains(child.name) && state.children[index].state == "running" {
            // Not yet waited for, so the number is still this child's.
            kill(child.processID, signal)
        }
    }
}

/// The lines by which a coordinator tells its `up`, or a script, how far it is: `listening http=H:P listen=H:P` when its
/// ports are open, `ready http=H:P listen=H:P` when the cluster serves.
struct CoordinatorReport: Equatable {
    enum Event: String {
        case listening
        case ready
    }

    let event: Event
    let http: String
    let listen: String

    init(_ event: Event, http: String, listen: String) {
        self.event = event
        self.http = http
        self.listen = listen
    }

    init?(line: String) {
        let words = line.split(separator: " ")
        guard words.count == 3, let event = Event(rawValue: String(words[0])), words[1].hasPrefix("http="),
            words[2].hasPrefix("listen=")
        else { return nil }
        self.init(event, http: String(words[1].dropFirst(5)), listen: String(words[2].dropFirst(7)))
    }

    var line: String { "\(event.rawValue) http=\(http) listen=\(listen)\n" }
}
