import Testing

@testable import tramontane

struct SupervisorMachineTests {
    private typealias Machine = SupervisorMachine

    private let workers = ["a", "b"]
    private static let killed = ProcessExit.signal(9)

    /// A machine whose cluster serves, at time 0.
    private func serving() -> SupervisorMachine {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start, now: 0)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"), now: 0)
        _ = machine.handle(.serving, now: 0)
        return machine
    }

    private func exited(_ name: String, _ exit: ProcessExit = .status(0)) -> SupervisorMachine.Event {
        .exited(name: name, exit)
    }

    @Test func startsInOrder() {
        var machine = SupervisorMachine(workers: workers)
        #expect(machine.handle(.start, now: 0) == [.startCoordinator])
        #expect(
            machine.handle(.listening(http: "h:1", listen: "l:2"), now: 7) == [.startWorkers(workers, listen: "l:2")])
        #expect(machine.deadline == 7 + Machine.firstPatience)
        #expect(machine.handle(.serving, now: 9) == [.announce(http: "h:1", listen: "l:2")])
        #expect(machine.deadline == nil)
        // Said twice is no second announcement.
        #expect(machine.handle(.serving, now: 10).isEmpty)
        #expect(machine.handle(.listening(http: "h:3", listen: "l:4"), now: 10).isEmpty)
    }

    @Test func aLongStartIsExplained() throws {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start, now: 0)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"), now: 0)
        let due = try #require(machine.deadline)
        #expect(machine.handle(.deadlinePassed, now: due - 1).isEmpty)
        let actions = machine.handle(.deadlinePassed, now: due)
        guard case .logWithLastWords(_, of: "coordinator", after: nil)? = actions.first else {
            Issue.record("nothing was said: \(actions)")
            return
        }
        #expect(machine.deadline == due + Machine.patience)
        #expect(machine.handle(.serving, now: due) == [.announce(http: "h:1", listen: "l:2")])
        #expect(machine.deadline == nil)
    }

    @Test func stopsTheCoordinatorFirst() {
        var machine = serving()
        #expect(machine.handle(.stopAsked, now: 10) == [.terminate(["coordinator"])])
        #expect(machine.deadline == 10 + Machine.coordinatorDeadline)
        #expect(machine.handle(exited("coordinator"), now: 20) == [.terminate(["a", "b"])])
        #expect(machine.deadline == 20 + Machine.workerDeadline)
        #expect(machine.handle(exited("b"), now: 30).isEmpty)
        #expect(machine.handle(exited("a"), now: 30) == [.end(status: 0)])
        #expect(machine.deadline == nil)
        #expect(machine.handle(.stopAsked, now: 40).isEmpty)
    }

    @Test func whoTakesTooLongIsKilled() {
        var machine = serving()
        _ = machine.handle(.stopAsked, now: 0)
        #expect(machine.handle(.deadlinePassed, now: Machine.coordinatorDeadline).last == .kill(["coordinator"]))
        #expect(machine.handle(exited("coordinator", Self.killed), now: 5_000).last == .terminate(["a", "b"]))
        _ = machine.handle(exited("a"), now: 5_000)
        #expect(machine.handle(.deadlinePassed, now: 5_000 + Machine.workerDeadline).last == .kill(["b"]))
        #expect(machine.handle(exited("b", Self.killed), now: 11_000).last == .end(status: 0))
    }

    /// A process gives itself less time for its end than it has before it is killed.
    @Test func deadlinesLeaveRoomForAnOrderlyEnd() {
        #expect(CoordinatorCommand.graceSeconds * 1000 < Machine.coordinatorDeadline)
        #expect(WorkerCommand.graceSeconds * 1000 < Machine.workerDeadline)
        #expect(Machine.coordinatorDeadline + Machine.workerDeadline < 10_000)
    }

    @Test func askedTwiceThereIsNoMorePatience() {
        var machine = serving()
        _ = machine.handle(.stopAsked, now: 0)
        #expect(machine.handle(.stopAsked, now: Machine.sameAsk - 1).isEmpty)
        #expect(machine.handle(.stopAsked, now: Machine.sameAsk) == [.kill(["a", "b", "coordinator"])])
    }

    @Test func aDeadWorkerIsStartedAgain() throws {
        var machine = serving()
        let actions = machine.handle(exited("a", Self.killed), now: 100)
        #expect(
            actions == [
                .logWithLastWords("a died: \(Self.killed); it is started again in 1 s", of: "a", after: Self.killed)
            ])
        #expect(machine.deadline == 1_100)
        #expect(machine.handle(.deadlinePassed, now: 1_099).isEmpty)
        #expect(
            machine.handle(.deadlinePassed, now: 1_100)
                == [.log("starting a again"), .startWorkers(["a"], listen: "l:2")])
        #expect(machine.deadline == nil)
        #expect(machine.handle(.stopAsked, now: 1_200) == [.terminate(["coordinator"])])
        #expect(machine.handle(exited("coordinator"), now: 1_300) == [.terminate(["a", "b"])])
    }

    /// Twice as long after each death, 30 s at most; from the beginning again after a process that lived for a minute.
    @Test func aWorkerThatKeepsDyingComesBackEverMoreSlowly() throws {
        var machine = serving()
        var now = 0
        func away(after life: Int, _ exit: ProcessExit) throws -> Int {
            now += life
            _ = machine.handle(exited("a", exit), now: now)
            let due = try #require(machine.deadline)
            defer { now = due }
            #expect(machine.handle(.deadlinePassed, now: due).last == .startWorkers(["a"], listen: "l:2"))
            return due - now
        }
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            #expect(try away(after: 500, .status(1)) == seconds * 1000)
        }
        #expect(try away(after: Machine.goodLife - 1, Self.killed) == 30_000)
        #expect(try away(after: Machine.goodLife, Self.killed) == 1_000)
        #expect(try away(after: 0, Self.killed) == 2_000)
    }

    @Test func twoDeadWorkersEachHaveTheirTime() {
        var machine = serving()
        _ = machine.handle(exited("b", Self.killed), now: 0)
        _ = machine.handle(exited("a", Self.killed), now: 400)
        #expect(machine.deadline == 1_000)
        #expect(machine.handle(.deadlinePassed, now: 1_000).last == .startWorkers(["b"], listen: "l:2"))
        #expect(machine.deadline == 1_400)
        #expect(machine.handle(.deadlinePassed, now: 1_400).last == .startWorkers(["a"], listen: "l:2"))
    }

    @Test func aWorkerThatWasToldToEndComesBack() {
        var machine = serving()
        let actions = machine.handle(exited("a"), now: 0)
        #expect(actions == [.log("a died: \(ProcessExit.status(0)); it is started again in 1 s")])
        #expect(machine.handle(.deadlinePassed, now: 1_000).last == .startWorkers(["a"], listen: "l:2"))
    }

    @Test func aWorkerThatCannotBeStartedAgainIsTriedLater() {
        var machine = serving()
        _ = machine.handle(exited("a", Self.killed), now: 0)
        _ = machine.handle(.deadlinePassed, now: 1_000)
        #expect(machine.handle(.startFailed(["a"]), now: 1_000) == [.log("a is tried again in 2 s")])
        #expect(machine.deadline == 3_000)
    }

    @Test func nobodyComesBackWhileTheClusterStops() {
        var machine = serving()
        _ = machine.handle(exited("a", Self.killed), now: 0)
        #expect(machine.handle(.stopAsked, now: 500) == [.terminate(["coordinator"])])
        #expect(machine.deadline == 500 + Machine.coordinatorDeadline)
        #expect(machine.handle(exited("b", Self.killed), now: 600) == [.log("b: \(Self.killed)")])
        #expect(machine.handle(exited("coordinator"), now: 700) == [.end(status: 0)])
    }

    @Test func withoutACoordinatorThereIsNoCluster() {
        var machine = serving()
        let actions = machine.handle(exited("coordinator", .status(1)), now: 0)
        #expect(actions.dropFirst() == [.terminate(["a", "b"])])
        _ = machine.handle(exited("a"), now: 1)
        #expect(machine.handle(exited("b"), now: 1) == [.end(status: 1)])
    }

    @Test func aWorkerThatCannotStartEndsTheStart() {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start, now: 0)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"), now: 0)
        let actions = machine.handle(exited("a", .status(1)), now: 1)
        #expect(
            actions == [
                .logWithLastWords("a failed to start: \(ProcessExit.status(1))", of: "a", after: .status(1)),
                .terminate(["coordinator"]),
            ])
        #expect(machine.handle(exited("coordinator"), now: 2) == [.terminate(["b"])])
        #expect(machine.handle(exited("b"), now: 3) == [.end(status: 1)])
    }

    // MARK: Workers whose coordinator is somewhere else

    /// Two workers that run, at time 0.
    private func alone() -> SupervisorMachine {
        var machine = SupervisorMachine(workers: workers, hasCoordinator: false)
        #expect(machine.handle(.start, now: 0) == [.startWorkers(workers, listen: "")])
        #expect(machine.deadline == nil)
        return machine
    }

    @Test func aloneTheyAreStoppedTogether() {
        var machine = alone()
        #expect(machine.handle(.stopAsked, now: 10) == [.terminate(["a", "b"])])
        #expect(machine.handle(exited("a"), now: 20).isEmpty)
        #expect(machine.handle(exited("b"), now: 20) == [.end(status: 0)])
    }

    @Test func aloneOneThatASignalEndedIsStartedAgain() {
        var machine = alone()
        _ = machine.handle(exited("a", Self.killed), now: 100)
        #expect(machine.handle(.deadlinePassed, now: 1_100).last == .startWorkers(["a"], listen: ""))
    }

    @Test func aloneOneThatEndsWithAnErrorEndsAll() {
        var machine = alone()
        let actions = machine.handle(exited("a", .status(1)), now: 0)
        #expect(actions == [.log("a: \(ProcessExit.status(1))"), .terminate(["b"])])
        #expect(machine.handle(exited("b"), now: 1) == [.end(status: 1)])
    }

    @Test func aloneTheEndIsWhenTheLastHasEnded() {
        var machine = alone()
        _ = machine.handle(exited("a", Self.killed), now: 0)
        #expect(machine.handle(exited("b"), now: 1).count == 1)
        _ = machine.handle(.deadlinePassed, now: 1_000)
        #expect(machine.handle(exited("a"), now: 1_001).last == .end(status: 0))
    }

    @Test func childrenThatNeverRanAreNotWaitedFor() {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start, now: 0)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"), now: 0)
        #expect(machine.handle(.startFailed(["b"]), now: 0) == [.terminate(["coordinator"])])
        #expect(machine.handle(exited("coordinator"), now: 0) == [.terminate(["a"])])
        var early = SupervisorMachine(workers: workers)
        _ = early.handle(.start, now: 0)
        #expect(early.handle(.startFailed(["coordinator"]), now: 0) == [.end(status: 1)])
    }

    /// Whatever happens in whatever order: the end is said once, after every process has ended; nobody who has ended is
    /// signalled, nobody who runs is started, and nobody is started once the cluster stops; workers are told to end only when
    /// the coordinator has.
    @Test(arguments: [1, 2, 3, 4, 5] as [UInt64], [true, false])
    func anyOrder(seed: UInt64, hasCoordinator: Bool) {
        var random = Generator(state: seed)
        var returned = 0
        for round in 0..<300 {
            var machine = SupervisorMachine(workers: workers, hasCoordinator: hasCoordinator)
            var running: Set<String> = []
            var ends = 0
            var isStopping = false
            var now = 0
            func perform(_ event: SupervisorMachine.Event) {
                for action in machine.handle(event, now: now) {
                    switch action {
                    case .startCoordinator: running.insert("coordinator")
                    case .startWorkers(let names, _):
                        #expect(running.isDisjoint(with: names) && !isStopping, "seed \(seed), round \(round)")
                        if case .deadlinePassed = event { returned += names.count }
                        running.formUnion(names)
                    case .terminate(let names):
                        isStopping = true
                        #expect(running.isSuperset(of: names), "seed \(seed), round \(round)")
                        #expect(
                            names == ["coordinator"] || !running.contains("coordinator"), "seed \(seed), round \(round)"
                        )
                    case .kill(let names):
                        #expect(running.isSuperset(of: names), "seed \(seed), round \(round)")
                    case .end:
                        ends += 1
                        #expect(running.isEmpty, "seed \(seed), round \(round)")
                    case .announce, .log, .logWithLastWords: break
                    }
                }
            }
            perform(.start)
            for step in 0..<40 where ends == 0 {
                now += Int.random(in: 0...2_000, using: &random)
                switch Int.random(in: 0..<12, using: &random) {
                case 0 where step > 20: perform(.stopAsked)
                case 0...3:
                    if let deadline = machine.deadline, Bool.random(using: &random) { now = max(now, deadline) }
                    perform(.deadlinePassed)
                case 4...5:
                    // Early deaths end the start, and most rounds would see nothing else.
                    guard step > 10, let name = running.sorted().randomElement(using: &random) else { continue }
                    running.remove(name)
                    perform(.exited(name: name, Bool.random(using: &random) ? .status(0) : .signal(9)))
                case 6...8: perform(.listening(http: "h:1", listen: "l:2"))
                default: perform(.serving)
                }
            }
            perform(.stopAsked)
            while let name = running.sorted().first {
                running.remove(name)
                perform(.exited(name: name, .status(0)))
            }
            #expect(ends == 1, "seed \(seed), round \(round)")
            #expect(machine.deadline == nil, "seed \(seed), round \(round)")
        }
        #expect(returned > 0, "seed \(seed): nobody was ever started again")
    }

    /// SplitMix64.
    private struct Generator: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }

    @Test func waitStatuses() {
        #expect(ProcessExit(waitStatus: 0) == .status(0))
        #expect(ProcessExit(waitStatus: 64 << 8) == .status(64))
        #expect(ProcessExit(waitStatus: 9) == .signal(9))
        #expect(ProcessExit(waitStatus: 11 | 0x80) == .signal(11))
    }

    @Test func reports() {
        let report = CoordinatorReport(.ready, http: "127.0.0.1:80", listen: "[::1]:7000")
        #expect(report.line == "ready http=127.0.0.1:80 listen=[::1]:7000\n")
        #expect(CoordinatorReport(line: "ready http=127.0.0.1:80 listen=[::1]:7000") == report)
        #expect(CoordinatorReport(line: "listening http=a:1 listen=b:2")?.event == .listening)
        for line in ["", "ready", "ready http=a:1", "ready listen=a http=b", "unready http=a listen=b"] {
            #expect(CoordinatorReport(line: line) == nil)
        }
    }
}
