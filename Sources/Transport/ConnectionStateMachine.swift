import NIOCore
import Wire

/// A connection's protocol without its I/O: handshake, kinds allowed, keepalive, silence in the middle of a frame.
///
/// It takes whole frames and clock ticks, and says what the shell has to do. Time is a parameter. Time in which the
/// shell's own loop stood still (a long computation) is not held against the peer: between two ticks at most two tick
/// intervals count.
struct ConnectionStateMachine {
    enum Side {
        case dialler
        case acceptor(roles: Set<ProtoHello.Role>)
    }

    private enum State {
        case awaitingWelcome
        case awaitingHello(Set<ProtoHello.Role>)
        /// A hello was good; the owner has not yet taken or refused the peer.
        case deciding(PeerIdentity)
        case established(PeerIdentity)
        case closed
    }

    /// What a frame asks for.
    enum FrameAction {
        case none
        case deliver(Frame)
        case reply(Frame)
        /// Ask the owner, then call ``accepted()`` or ``failed()``.
        case decide(PeerIdentity)
        /// The dialling side's handshake is done.
        case established(PeerIdentity)
        /// Close, and tell the peer why.
        case fail(Failure)
        /// The peer closes and said why.
        case peerFailed(Failure)
    }

    enum TickAction {
        case none
        case send(Frame)
        case fail(Failure)
    }

    let local: LocalIdentity
    private let isDialler: Bool
    private var state: State
    private var lastTick: NIODeadline
    /// Counted since the start in the handshake, since the last byte afterwards.
    private var silence: TimeAmount = .nanoseconds(0)
    private var isInsideFrame = false
    private var pinged = false

    init(side: Side, local: LocalIdentity, now: NIODeadline) {
        self.local = local
        lastTick = now
        switch side {
        case .dialler:
            isDialler = true
            state = .awaitingWelcome
        case .acceptor(let roles):
            isDialler = false
            state = .awaitingHello(roles)
        }
    }

    /// How often ``tick(now:)`` wants to be called.
    var tickInterval: TimeAmount {
        let limits = local.limits
        let shortest = min(limits.handshakeTimeout, limits.keepaliveInterval, limits.frameSilence)
        return .nanoseconds(max(1_000_000, min(shortest.nanoseconds / 4, 1_000_000_000)))
    }

    /// Nobody is served before the handshake is done.
    var isEstablished: Bool {
        if case .established = state { true } else { false }
    }

    /// Unsent bytes above which the peer is taken for stuck.
    var maximumOutgoingBytes: Int {
        guard !isDialler, case .established(let peer) = state, peer.role == .client else {
            return local.limits.maximumOutgoingBytes
        }
        return local.limits.maximumClientOutgoingBytes
    }

    var isInHandshake: Bool {
        switch state {
        case .awaitingHello, .awaitingWelcome, .deciding: true
        case .established, .closed: false
        }
    }

    /// The dialling side's first frame.
    func opening() -> Frame? {
        if case .awaitingWelcome = state { Handshake.hello(local) } else { nil }
    }

    mutating func received(_ frame: Frame) -> FrameAction {
        switch state {
        case .closed:
            return .none
        case .awaitingHello(let roles):
            return receivedInHandshake(frame, due: .hello) { machine throws(Failure) in
                let peer = try Handshake.peer(hello: frame.message(), local: machine.local, roles: roles)
                machine.state = .deciding(peer)
                return .decide(peer)
            }
        case .awaitingWelcome:
            return receivedInHandshake(frame, due: .welcome) { machine throws(Failure) in
                let peer = try Handshake.peer(welcome: frame.message(), local: machine.local)
                machine.state = .established(peer)
                machine.silence = .nanoseconds(0)
                return .established(peer)
            }
        case .deciding:
            return fail(
                Failure(
                    code: "frame_unexpected", message: "frame \(frame.kind.name) came before the handshake was over")
            )
        case .established(let peer):
            return receivedEstablished(frame, peer)
        }
    }

    /// The owner takes the peer; the result is the welcome to send.
    mutating func accepted() -> Frame? {
        guard case .deciding(let peer) = state else { return nil }
        state = .established(peer)
        silence = .nanoseconds(0)
        return Handshake.welcome(local, to: peer)
    }

    /// The connection is over, for whatever reason.
    mutating func failed() {
        state = .closed
    }

    /// Bytes arrived. `isInsideFrame`: the last of them begin a frame that has not ended.
    mutating func heard(isInsideFrame: Bool) {
        self.isInsideFrame = isInsideFrame
        if isEstablished {
            silence = .nanoseconds(0)
            pinged = false
        }
    }

    /// The clock has moved on.
    mutating func tick(now: NIODeadline) -> TickAction {
        let passed = min(max(now - lastTick, .nanoseconds(0)), tickInterval * 2)
        lastTick = now
        silence = silence + passed
        switch state {
        case .closed:
            return .none
        case .awaitingHello, .awaitingWelcome, .deciding:
            guard silence >= local.limits.handshakeTimeout else { return .none }
            return .fail(
                Failure(
                    code: "handshake_timeout",
                    message: "no handshake within \(local.limits.handshakeTimeout.milliseconds) ms"
                )
            )
        case .established(let peer):
            if isInsideFrame, silence >= local.limits.frameSilence {
                return .fail(
                    Failure(
                        code: "frame_timeout",
                        message: "\(peer.name) was silent for \(local.limits.frameSilence.milliseconds) ms "
                            + "in the middle of a frame"
                    )
                )
            }
            if silence >= local.limits.keepaliveInterval * 3 {
                return .fail(
                    Failure(
                        code: "keepalive_timeout",
                        message: "\(peer.name) was silent for \((local.limits.keepaliveInterval * 3).milliseconds) ms"
                    )
                )
            }
            if silence >= local.limits.keepaliveInterval, !pinged {
                pinged = true
                return .send(Frame(.ping))
            }
            return .none
        }
    }

    private mutating func receivedInHandshake(
        _ frame: Frame, due: FrameKind, _ take: (inout Self) throws(Failure) -> FrameAction
    ) -> FrameAction {
        switch frame.kind {
        case due:
            do {
                return try take(&self)
            } catch {
                return fail(error)
            }
        case .error:
            return peerFailed(frame)
        default:
            return fail(
                Failure(
                    code: "handshake_expected",
                    message: "frame \(frame.kind.name) came where \(due.name) was due"
                )
            )
        }
    }

    private mutating func receivedEstablished(_ frame: Frame, _ peer: PeerIdentity) -> FrameAction {
        guard frame.kind.isAllowed(role: peer.role, fromDialler: !isDialler) else {
            return fail(
                Failure(
                    code: "frame_unexpected",
                    message: "frame \(frame.kind.name) is not sent by the \(isDialler ? "accepting" : "dialling") side "
                        + "of a connection of role \(peer.role)"
                )
            )
        }
        switch frame.kind {
        case .ping: return .reply(Frame(.pong, correlation: frame.correlation))
        case .pong: return .none
        case .error: return peerFailed(frame)
        default: return .deliver(frame)
        }
    }

    private mutating func fail(_ failure: Failure) -> FrameAction {
        state = .closed
        return .fail(failure)
    }

    private mutating func peerFailed(_ frame: Frame) -> FrameAction {
        state = .closed
        do {
            return .peerFailed(Failure(try frame.message(ProtoFailure.self)))
        } catch {
            return .peerFailed(error)
        }
    }
}

extension TimeAmount {
    var milliseconds: Int64 { nanoseconds / 1_000_000 }
}
