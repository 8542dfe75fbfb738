import NIOCore
import TestSupport
import Testing
import Wire

@testable import Transport

extension ConnectionStateMachine.FrameAction {
    fileprivate var picture: String {
        switch self {
        case .none: "none"
        case .deliver(let frame): "deliver \(frame.kind.name)"
        case .reply(let frame): "reply \(frame.kind.name) \(frame.correlation)"
        case .decide(let peer): "decide \(peer.name)"
        case .established(let peer): "established \(peer.name)"
        case .fail(let failure): "fail \(failure.code)"
        case .peerFailed(let failure): "peer failed \(failure.code)"
        }
    }
}

extension ConnectionStateMachine.TickAction {
    fileprivate var picture: String {
        switch self {
        case .none: ""
        case .send(let frame): "send \(frame.kind.name)"
        case .fail(let failure): "fail \(failure.code)"
        }
    }
}

@Suite struct ConnectionStateMachineTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    private func acceptor(_ local: LocalIdentity = .test()) -> ConnectionStateMachine {
        ConnectionStateMachine(side: .acceptor(roles: everyRole), local: local, now: start)
    }

    private func dialler(_ local: LocalIdentity = .test()) -> ConnectionStateMachine {
        ConnectionStateMachine(side: .dialler, local: local, now: start)
    }

    /// Lets the clock run and returns what happened when, in whole seconds since the start.
    private func run(
        _ machine: inout ConnectionStateMachine, from: Int64 = 0, seconds: Int64
    ) -> [String] {
        var pictures: [String] = []
        var time = TimeAmount.seconds(from)
        while time < .seconds(from + seconds) {
            time = time + machine.tickInterval
            let picture = machine.tick(now: start + time).picture
            if !picture.isEmpty { pictures.append("\(time.nanoseconds / 1_000_000_000): \(picture)") }
            if picture.hasPrefix("fail") {
                machine.failed()
                break
            }
        }
        return pictures
    }

    @Test(arguments: [ProtoHello.Role.client, .workerControl, .coordinatorData, .workerData])
    func handshake(role: ProtoHello.Role) throws {
        var near = dialler(.test(role, name: "near"))
        var far = acceptor(.test(name: "far"))
        let hello = try #require(near.opening())
        #expect(far.opening() == nil)
        guard case .decide(let peer) = far.received(hello) else {
            Issue.record("the hello was refused")
            return
        }
        #expect(peer.role == role && peer.name == "near" && peer.incarnation == 42 && peer.features == ["a", "b"])
        #expect(!far.isEstablished)
        let answer = far.accepted()
        let welcome = try #require(answer)
        guard case .established(let other) = near.received(welcome) else {
            Issue.record("the welcome was refused")
            return
        }
        #expect(near.isEstablished && far.isEstablished)
        #expect(other.role == role && other.name == "far")
        #expect(other.rowCredits == (role == .workerData ? 512 : 0))
        #expect(other.maximumPayloadBytes == (role == .client ? 8 << 20 : 64 << 20))
    }

    @Test func whoIsRefused() {
        func verdict(_ identity: LocalIdentity, roles: Set<ProtoHello.Role> = everyRole) -> String {
            var machine = ConnectionStateMachine(side: .acceptor(roles: roles), local: .test(), now: start)
            return machine.received(Handshake.hello(identity)).picture
        }
        var other = LocalIdentity.test(.workerData)
        #expect(verdict(other) == "decide peer")
        #expect(verdict(other, roles: [.client]) == "fail role_refused")
        other.numericsVersion = 2
        #expect(verdict(other) == "fail numerics_mismatch")
        other = .test(.coordinatorData)
        other.manifestDigest = []
        #expect(verdict(other) == "fail manifest_mismatch")
        other = .test(.client)
        other.numericsVersion = 9
        #expect(verdict(other) == "decide peer")
        #expect(verdict(.test(.unspecified)) == "fail role_refused")
        #expect(verdict(.test(.workerControl, name: "")) == "fail name_invalid")
        #expect(verdict(.test(.client, name: "")) == "decide ")
        #expect(verdict(.test(.client, name: String(repeating: "x", count: 257))) == "fail name_invalid")
        var unknownRole = ProtoHello()
        unknownRole.role = .UNRECOGNIZED(99)
        var machine = acceptor()
        #expect(machine.received(Frame(.hello, unknownRole)).picture == "fail role_refused")
    }

    @Test func nothingComesBeforeTheHandshake() throws {
        for kind in FrameKind.allCases where kind != .hello && kind != .error {
            var machine = acceptor()
            #expect(machine.received(Frame(kind)).picture == "fail handshake_expected")
            #expect(machine.received(Handshake.hello(.test())).picture == "none")
        }
        for kind in FrameKind.allCases where kind != .welcome && kind != .error {
            var machine = dialler()
            #expect(machine.received(Frame(kind)).picture == "fail handshake_expected")
        }
        var machine = dialler()
        #expect(machine.received(.error(Failure(code: "no", message: ""))).picture == "peer failed no")
        machine = dialler()
        #expect(machine.received(Frame(.welcome, ProtoWelcome())).picture == "fail welcome_malformed")
    }

    private func established(_ role: ProtoHello.Role = .client) -> ConnectionStateMachine {
        var machine = acceptor()
        _ = machine.received(Handshake.hello(.test(role)))
        _ = machine.accepted()
        return machine
    }

    @Test func kindsOfOtherRolesCloseTheConnection() {
        var machine = established(.client)
        #expect(machine.received(Frame(.generate, correlation: 1)).picture == "deliver generate")
        #expect(machine.received(Frame(.ping, correlation: 8)).picture == "reply pong 8")
        #expect(machine.received(Frame(.pong)).picture == "none")
        #expect(machine.received(Frame(.register)).picture == "fail frame_unexpected")
        #expect(machine.received(Frame(.ping)).picture == "none")
        machine = established(.client)
        #expect(machine.received(Frame(.delta)).picture == "fail frame_unexpected")
        machine = established(.client)
        #expect(machine.received(Handshake.hello(.test())).picture == "fail frame_unexpected")
    }

    @Test func aHandshakeHasADeadline() {
        var near = dialler()
        #expect(run(&near, seconds: 60) == ["5: fail handshake_timeout"])
        var far = acceptor()
        far.heard(isInsideFrame: true)
        #expect(run(&far, seconds: 60) == ["5: fail handshake_timeout"])
    }

    @Test func aSilentPeerIsPingedAndGivenUp() {
        var machine = established()
        #expect(run(&machine, seconds: 60) == ["5: send ping", "15: fail keepalive_timeout"])
        machine = established()
        #expect(run(&machine, seconds: 8) == ["5: send ping"])
        machine.heard(isInsideFrame: false)
        #expect(run(&machine, from: 8, seconds: 60) == ["13: send ping", "23: fail keepalive_timeout"])
    }

    @Test func silenceInTheMiddleOfAFrameIsShort() {
        var machine = established()
        machine.heard(isInsideFrame: true)
        #expect(run(&machine, seconds: 60) == ["5: fail frame_timeout"])
    }

    @Test func timeInWhichTheOwnLoopStoodStillDoesNotCount() {
        var machine = established()
        #expect(machine.tick(now: start + .seconds(1000)).picture == "")
        #expect(machine.tick(now: start + .seconds(2000)).picture == "")
        #expect(machine.tick(now: start + .seconds(3000)).picture == "send ping")
        // A clock that goes back does no harm either.
        #expect(machine.tick(now: start).picture == "")
    }

    /// Whatever comes in whatever order: nothing is delivered before the handshake, nothing happens after the end.
    @Test(arguments: 0..<200 as Range<UInt64>)
    func randomEvents(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var machine = Bool.random(using: &random) ? acceptor() : dialler(.test(.workerData))
        var now = start
        var isOver = false
        for _ in 0..<100 {
            let wasEstablished = machine.isEstablished
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1:
                var frame = Frame(FrameKind.allCases.randomElement(using: &random) ?? .ping)
                if frame.kind == .hello {
                    frame = Handshake.hello(
                        .test(everyRole.sorted { $0.rawValue < $1.rawValue }.randomElement(using: &random) ?? .client))
                }
                let picture = machine.received(frame).picture
                if isOver { #expect(picture == "none", "seed \(seed)") }
                if picture.hasPrefix("deliver") { #expect(wasEstablished, "seed \(seed)") }
                isOver = isOver || picture.contains("fail")
            case 2:
                if machine.accepted() != nil { #expect(!isOver && !wasEstablished, "seed \(seed)") }
            case 3:
                machine.heard(isInsideFrame: Bool.random(using: &random))
            default:
                now = now + .milliseconds(Int64.random(in: 0...3000, using: &random))
                let picture = machine.tick(now: now).picture
                if isOver { #expect(picture == "", "seed \(seed)") }
                if picture.hasPrefix("fail") {
                    machine.failed()
                    isOver = true
                }
            }
        }
    }
}
