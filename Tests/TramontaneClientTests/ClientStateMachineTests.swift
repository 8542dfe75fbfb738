import NIOCore
import TestSupport
import Testing
import Wire

@testable import TramontaneClient

private typealias Machine = ClientStateMachine<Int, Int>

private func accepted(_ id: UInt64) -> Frame {
    var message = ProtoAccepted()
    message.requestID = "r\(id)"
    message.seed = 7
    return Frame(.accepted, message, correlation: id)
}

private func delta(_ id: UInt64, _ text: String) -> Frame {
    var message = ProtoDelta()
    message.text = text
    message.tokens = [Int32(text.utf8.count)]
    return Frame(.delta, message, correlation: id)
}

private func finished(_ id: UInt64, _ reason: ProtoFinished.Reason = .stop) -> Frame {
    var message = ProtoFinished()
    message.reason = reason
    return Frame(.finished, message, correlation: id)
}

private func failed(_ id: UInt64, _ code: String) -> Frame {
    Frame(.failed, ProtoFailure(Failure(code: code, message: "")), correlation: id)
}

/// Actions as lines that read like pictures.
private func picture(_ actions: [Machine.Action]) -> [String] {
    actions.map { action in
        switch action {
        case .send(let frame): return "send \(frame.kind.name) \(frame.correlation)"
        case .resumeReader(let reader, .success(.accepted(let acceptance))):
            return "\(reader) <- accepted \(acceptance.requestID)"
        case .resumeReader(let reader, .success(.token(let token))): return "\(reader) <- '\(token.text)'"
        case .resumeReader(let reader, .success(.finished(let outcome))):
            return "\(reader) <- \(outcome.finishReason.rawValue)"
        case .resumeReader(let reader, .failure(let error as TramontaneError)):
            return "\(reader) <- error \(error.code)"
        case .resumeReader(let reader, .failure): return "\(reader) <- cancelled"
        case .resumeCaller(let caller, .success(let frame)): return "\(caller) <- \(frame.kind.name)"
        case .resumeCaller(let caller, .failure(let error)): return "\(caller) <- error \(error.code)"
        case .close(let failure): return "close \(failure.code)"
        }
    }
}

@Suite struct ClientStateMachineTests {
    private func open(_ machine: inout Machine) throws -> UInt64 {
        try machine.open(ProtoGenerateRequest()).id
    }

    @Test func aStreamFromBeginningToEnd() throws {
        var machine = Machine()
        let id = try open(&machine)
        #expect(picture(machine.next(id, reader: 1)) == [])
        #expect(picture(machine.received(accepted(id))) == ["1 <- accepted r1"])
        #expect(picture(machine.received(delta(id, "a"))) == [])
        #expect(picture(machine.received(delta(id, "b"))) == [])
        #expect(picture(machine.next(id, reader: 2)) == ["2 <- 'a'"])
        #expect(picture(machine.next(id, reader: 3)) == ["3 <- 'b'"])
        #expect(picture(machine.next(id, reader: 4)) == [])
        #expect(picture(machine.received(finished(id))) == ["4 <- stop"])
        #expect(machine.openCount == 0)
    }

    @Test func aFailureComesAfterWhatCameBeforeIt() throws {
        var machine = Machine()
        let id = try open(&machine)
        #expect(picture(machine.received(accepted(id))) == [])
        #expect(picture(machine.received(delta(id, "a"))) == [])
        #expect(picture(machine.received(failed(id, "worker_lost"))) == [])
        #expect(picture(machine.next(id, reader: 1)) == ["1 <- accepted r1"])
        #expect(picture(machine.next(id, reader: 2)) == ["2 <- 'a'"])
        #expect(picture(machine.next(id, reader: 3)) == ["3 <- error worker_lost"])
        #expect(machine.openCount == 0)
    }

    @Test func cancellingTellsTheServerOnceAndDropsTheRest() throws {
        var machine = Machine()
        let id = try open(&machine)
        #expect(picture(machine.next(id, reader: 1)) == [])
        #expect(picture(machine.cancel(id)) == ["send cancel 1", "1 <- cancelled"])
        #expect(picture(machine.cancel(id)) == [])
        #expect(picture(machine.received(accepted(id))) == [])
        #expect(picture(machine.received(delta(id, "late"))) == [])
        #expect(picture(machine.next(id, reader: 2)) == ["2 <- cancelled"])
        #expect(picture(machine.received(finished(id, .cancelled))) == [])
        #expect(machine.openCount == 0)
    }

    @Test func readingGivesCreditBackByHalfWindows() throws {
        var machine = Machine()
        let id = try open(&machine)
        #expect(machine.received(accepted(id)).isEmpty)
        for _ in 0..<Machine.window { #expect(machine.received(delta(id, "x")).isEmpty) }
        _ = machine.next(id, reader: 0)
        for read in 1...Int(Machine.window) {
            let expected = read % (Int(Machine.window) / 2) == 0 ? ["0 <- 'x'", "send credit 1"] : ["0 <- 'x'"]
            #expect(picture(machine.next(id, reader: 0)) == expected)
        }
    }

    @Test func moreThanTheCreditClosesTheConnection() throws {
        var machine = Machine()
        let id = try open(&machine)
        _ = machine.received(accepted(id))
        for _ in 0..<Machine.window { _ = machine.received(delta(id, "x")) }
        #expect(picture(machine.received(delta(id, "x"))) == ["close frame_unexpected"])
    }

    @Test func framesOutOfPlaceCloseTheConnection() throws {
        for frame in [delta(1, "x"), finished(1), accepted(2), Frame(.scored, ProtoScoreResponse(), correlation: 1)] {
            var machine = Machine()
            let id = try open(&machine)
            #expect(picture(machine.next(id, reader: 1)) == [])
            #expect(picture(machine.received(frame)) == ["close frame_unexpected", "1 <- error frame_unexpected"])
        }
    }

    @Test func callsAreAnsweredOnce() {
        var machine = Machine()
        let id = machine.reserve()
        let actions = machine.call(id, Frame(.status, correlation: id), answer: .statusReport, caller: 5)
        #expect(picture(actions) == ["send status 1"])
        #expect(picture(machine.received(Frame(.statusReport, correlation: id))) == ["5 <- statusReport"])
        let second = machine.reserve()
        _ = machine.call(second, Frame(.score, correlation: second), answer: .scored, caller: 6)
        #expect(picture(machine.received(failed(second, "prompt_too_long"))) == ["6 <- error prompt_too_long"])
        let third = machine.reserve()
        #expect(picture(machine.cancel(third)) == [])
        let late = machine.call(third, Frame(.score, correlation: third), answer: .scored, caller: 7)
        #expect(picture(late) == ["7 <- error cancelled"])
        #expect(machine.openCount == 0)
    }

    @Test func theConnectionsEndReachesEverybodyOnce() throws {
        var machine = Machine()
        let waiting = try open(&machine)
        let buffered = try open(&machine)
        _ = machine.next(waiting, reader: 1)
        _ = machine.received(accepted(buffered))
        let ending = TramontaneError(code: "connection_closed", message: "")
        #expect(picture(machine.closed(ending)) == ["1 <- error connection_closed"])
        #expect(picture(machine.closed(ending)) == [])
        #expect(picture(machine.next(buffered, reader: 2)) == ["2 <- accepted r2"])
        #expect(picture(machine.next(buffered, reader: 3)) == ["3 <- error connection_closed"])
        #expect(throws: TramontaneError.self) { try open(&machine) }
        #expect(machine.openCount == 0)
    }

    /// A mock server that keeps the protocol, readers that come, wait and leave: everybody who waits is answered exactly
    /// once, every reader sees its own stream's tokens in order, nothing is left over, and no buffer outgrows the window.
    @Test(arguments: 0..<200 as Range<UInt64>)
    func randomEvents(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var machine = Machine()
        var server: [UInt64: (accepted: Bool, credit: UInt32, sent: Int)] = [:]
        var read: [UInt64: Int] = [:]
        var live: [UInt64] = []
        var waiting: [Int: UInt64] = [:]
        var nextReader = 0

        func perform(_ actions: [Machine.Action]) {
            for action in actions {
                switch action {
                case .send(let frame) where frame.kind == .credit:
                    let credit = (try? frame.message(ProtoCredit.self))?.frames ?? 0
                    server[frame.correlation]?.credit += credit
                case .send: break
                case .resumeReader(let reader, let result):
                    guard let id = waiting.removeValue(forKey: reader) else {
                        Issue.record("seed \(seed): reader \(reader) resumed twice")
                        continue
                    }
                    switch result {
                    case .success(.token(let token)):
                        #expect(token.text == "\(id):\(read[id, default: 0])", "seed \(seed)")
                        read[id, default: 0] += 1
                    case .success(.accepted(let acceptance)):
                        #expect(acceptance.requestID == "r\(id)", "seed \(seed)")
                    case .success(.finished), .failure:
                        live.removeAll { $0 == id }
                    }
                case .resumeCaller, .close: Issue.record("seed \(seed): \(action)")
                }
            }
        }

        for _ in 0..<400 {
            let id = live.randomElement(using: &random)
            let atServer = server.keys.sorted().randomElement(using: &random)
            switch Int.random(in: 0..<12, using: &random) {
            case 0 where live.count < 6:
                let id = try open(&machine)
                live.append(id)
                server[id] = (false, Machine.window, 0)
            case 1..<5:
                guard let id, !waiting.values.contains(id) else { continue }
                nextReader += 1
                waiting[nextReader] = id
                perform(machine.next(id, reader: nextReader))
            case 5 where Bool.random(using: &random):
                guard let id else { continue }
                perform(machine.cancel(id))
                live.removeAll { $0 == id }
            case 6..<11:
                guard let id = atServer, let state = server[id] else { continue }
                if !state.accepted {
                    server[id]?.accepted = true
                    perform(machine.received(accepted(id)))
                } else if state.credit > 0 {
                    server[id]?.credit -= 1
                    server[id]?.sent += 1
                    perform(machine.received(delta(id, "\(id):\(state.sent)")))
                }
            case 11:
                guard let id = atServer, let state = server.removeValue(forKey: id) else { continue }
                let terminal = state.accepted && Bool.random(using: &random) ? finished(id) : failed(id, "queue_full")
                perform(machine.received(terminal))
            default: break
            }
            #expect(machine.largestBuffer <= Int(Machine.window) + 2, "seed \(seed)")
        }
        perform(machine.closed(TramontaneError(code: "connection_closed", message: "")))
        for id in live {
            while live.contains(id) {
                nextReader += 1
                waiting[nextReader] = id
                perform(machine.next(id, reader: nextReader))
            }
        }
        #expect(waiting.isEmpty, "seed \(seed)")
        #expect(machine.openCount == 0, "seed \(seed)")
    }
}
