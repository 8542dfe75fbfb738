import Testing

@testable import tramontane

struct SupervisorMachineTests {
    private let workers = ["a", "b"]

    /// A machine whose cluster serves.
    private func serving() -> SupervisorMachine {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"))
        _ = machine.handle(.serving)
        return machine
    }

    private func exited(_ name: String, _ exit: ProcessExit = .status(0)) -> SupervisorMachine.Event {
        .exited(name: name, exit)
    }

    @Test func startsInOrder() {
        var machine = SupervisorMachine(workers: workers)
        #expect(machine.handle(.start) == [.startCoordinator])
        #expect(
            machine.handle(.listening(http: "h:1", listen: "l:2"))
                == [.startWorkers(listen: "l:2"), .setDeadline(milliseconds: SupervisorMachine.firstPatience)])
        #expect(machine.handle(.serving) == [.announce(http: "h:1", listen: "l:2")])
        // Said twice is no second announcement.
        #expect(machine.handle(.serving).isEmpty)
        #expect(machine.handle(.listening(http: "h:3", listen: "l:4")).isEmpty)
    }

    @Test func aLongStartIsExplained() {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"))
        let actions = machine.handle(.deadlinePassed)
        guard case .logWithLastWords(_, of: "coordinator")? = actions.first else {
            Issue.record("nothing was said: \(actions)")
            return
        }
        #expect(actions.last == .setDeadline(milliseconds: SupervisorMachine.patience))
        #expect(machine.handle(.serving) == [.announce(http: "h:1", listen: "l:2")])
        #expect(machine.handle(.deadlinePassed).isEmpty)
    }

    @Test func stopsWorkersFirst() {
        var machine = serving()
        #expect(
            machine.handle(.stopAsked)
                == [.terminate(["a", "b"]), .setDeadline(milliseconds: SupervisorMachine.workerDeadline)])
        #expect(machine.handle(exited("b")).isEmpty)
        #expect(
            machine.handle(exited("a"))
                == [
                    .terminate(["coordinator"]), .setDeadline(milliseconds: SupervisorMachine.coordinatorDeadline),
                ])
        #expect(machine.handle(exited("coordinator")) == [.end(status: 0)])
        #expect(machine.handle(.stopAsked).isEmpty)
    }

    @Test func whoTakesTooLongIsKilled() {
        var machine = serving()
        _ = machine.handle(.stopAsked)
        _ = machine.handle(exited("a"))
        #expect(machine.handle(.deadlinePassed).last == .kill(["b", "coordinator"]))
        _ = machine.handle(exited("coordinator", .signal(9)))
        #expect(machine.handle(exited("b", .signal(9))).last == .end(status: 0))
    }

    @Test func askedTwiceThereIsNoMorePatience() {
        var machine = serving()
        _ = machine.handle(.stopAsked)
        #expect(machine.handle(.stopAsked) == [.kill(["a", "b", "coordinator"])])
    }

    @Test func aDeadWorkerIsNamedAndTheRestGoesOn() {
        var machine = serving()
        #expect(
            machine.handle(exited("a", .signal(9)))
                == [.logWithLastWords("a died: \(ProcessExit.signal(9))", of: "a")])
        #expect(machine.handle(.stopAsked).first == .terminate(["b"]))
    }

    @Test func withoutACoordinatorThereIsNoCluster() {
        var machine = serving()
        let actions = machine.handle(exited("coordinator", .status(1)))
        #expect(actions.dropFirst().first == .terminate(["a", "b"]))
        _ = machine.handle(exited("a"))
        #expect(machine.handle(exited("b")) == [.end(status: 1)])
    }

    @Test func aWorkerThatCannotStartEndsTheStart() {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"))
        let actions = machine.handle(exited("a", .status(1)))
        #expect(
            actions.first == .logWithLastWords("a failed to start: \(ProcessExit.status(1))", of: "a"))
        #expect(actions.dropFirst().first == .terminate(["b"]))
    }

    @Test func childrenThatNeverRanAreNotWaitedFor() {
        var machine = SupervisorMachine(workers: workers)
        _ = machine.handle(.start)
        _ = machine.handle(.listening(http: "h:1", listen: "l:2"))
        #expect(machine.handle(.startFailed(["b"])).first == .terminate(["a"]))
        var early = SupervisorMachine(workers: workers)
        _ = early.handle(.start)
        #expect(early.handle(.startFailed(["coordinator"])) == [.end(status: 1)])
    }

    /// Whatever happens in whatever order: the end is said once, after every process has ended, and nobody who has ended is
    /// signalled.
    @Test(arguments: [1, 2, 3, 4, 5] as [UInt64])
    func anyOrder(seed: UInt64) {
        var random = Generator(state: seed)
        for round in 0..<300 {
            var machine = SupervisorMachine(workers: workers)
            var running: Set<String> = []
            var ends = 0
            var pending: [SupervisorMachine.Event] = [.start]
            func perform(_ actions: [SupervisorMachine.Action]) {
                for action in actions {
                    switch action {
                    case .startCoordinator: running.insert("coordinator")
                    case .startWorkers: running.formUnion(workers)
                    case .terminate(let names), .kill(let names):
                        #expect(running.isSuperset(of: names), "seed \(seed), round \(round)")
                    case .end:
                        ends += 1
                        #expect(running.isEmpty, "seed \(seed), round \(round)")
                    case .announce, .setDeadline, .log, .logWithLastWords: break
                    }
                }
            }
            for step in 0..<40 where ends == 0 {
                let event: SupervisorMachine.Event
                if !pending.isEmpty {
                    event = pending.removeFirst()
                } else {
                    switch Int.random(in: 0..<(step < 20 ? 6 : 4), using: &random) {
                    case 0: event = .stopAsked
                    case 1: event = .deadlinePassed
                    case 2, 3:
                        guard let name = running.sorted().randomElement(using: &random) else { continue }
                        running.remove(name)
                        event = .exited(name: name, .status(0))
                    case 4: event = .listening(http: "h:1", listen: "l:2")
                    default: event = .serving
                    }
                }
                perform(machine.handle(event))
            }
            perform(machine.handle(.stopAsked))
            while let name = running.sorted().first {
                running.remove(name)
                perform(machine.handle(.exited(name: name, .status(0))))
            }
            #expect(ends == 1, "seed \(seed), round \(round)")
        }
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
