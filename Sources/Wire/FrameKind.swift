/// What a frame carries. The raw value is the `kind` field of the header; `docs/wire-protocol.md` has the table.
package enum FrameKind: UInt16, Sendable, CaseIterable {
    // Every connection.
    case hello = 1
    case welcome = 2
    case error = 3
    case ping = 4
    case pong = 5
    // Control plane: worker and coordinator.
    case register = 16
    case assign = 17
    case shardReady = 18
    case heartbeat = 19
    case peerLost = 20
    // Data plane.
    case step = 32
    case experts = 33
    case expertResults = 34
    case hidden = 35
    case stepResult = 36
    case stepFailed = 37
    // Client plane.
    case generate = 64
    case accepted = 65
    case delta = 66
    case finished = 67
    case failed = 68
    case cancel = 69
    case credit = 70
    case score = 71
    case scored = 72
    case status = 73
    case statusReport = 74

    /// The kind's place in `allCases`, for tables of all kinds.
    package var place: Int { Int(Self.places[Int(rawValue)]) }

    private static let places: [UInt8] = {
        var places = [UInt8](repeating: 0, count: 1 + Int(allCases.map(\.rawValue).max() ?? 0))
        for (place, kind) in allCases.enumerated() { places[Int(kind.rawValue)] = UInt8(place) }
        return places
    }()

    /// The name that documents and accounting use.
    package var name: String { String(describing: self) }

    /// Payload lengths in bytes that the kind allows, whatever the connection's own limit is.
    package var payloadBytes: ClosedRange<Int> {
        switch self {
        case .ping, .pong, .cancel: 0...0
        // Messages whose every field may have its default value are legally empty.
        case .heartbeat: 0...Frame.maximumPayloadBytes
        case .status: 0...1024
        case .statusReport: 0...Frame.maximumPayloadBytes
        case .credit: 1...64
        case .hello, .welcome, .error, .failed: 1...Frame.maximumHandshakePayloadBytes
        case .experts: ExpertRequest.headBytes...Frame.maximumPayloadBytes
        case .expertResults: ExpertReply.headBytes...Frame.maximumPayloadBytes
        case .hidden: 4...Frame.maximumPayloadBytes
        case .register, .assign, .shardReady, .peerLost, .step, .stepResult, .stepFailed, .generate, .accepted,
            .delta, .finished, .score, .scored:
            1...Frame.maximumPayloadBytes
        }
    }

    /// Whether the side that dialled may send this kind on an established connection of `role`; the other side's
    /// kinds when `fromDialler` is false. Handshake kinds are never allowed once the handshake is over.
    package func isAllowed(role: ProtoHello.Role, fromDialler: Bool) -> Bool {
        switch self {
        case .error, .ping, .pong:
            return true
        case .hello, .welcome:
            return false
        case .register, .shardReady, .heartbeat, .peerLost:
            return role == .workerControl && fromDialler
        case .assign:
            return role == .workerControl && !fromDialler
        case .step:
            return role == .coordinatorData && fromDialler
        case .stepResult, .stepFailed:
            return role == .coordinatorData && !fromDialler
        case .experts, .hidden:
            return role == .workerData && fromDialler
        case .expertResults:
            return role == .workerData && !fromDialler
        case .generate, .cancel, .credit, .score, .status:
            return role == .client && fromDialler
        case .accepted, .delta, .finished, .failed, .scored, .statusReport:
            return role == .client && !fromDialler
        }
    }
}
