import NIOCore
package import Wire

/// Frames and payload bytes of one kind in both directions.
package struct KindCounters: Sendable, Equatable {
    package var framesSent: UInt64 = 0
    package var bytesSent: UInt64 = 0
    package var framesReceived: UInt64 = 0
    package var bytesReceived: UInt64 = 0

    fileprivate mutating func add(_ other: KindCounters) {
        framesSent &+= other.framesSent
        bytesSent &+= other.bytesSent
        framesReceived &+= other.framesReceived
        bytesReceived &+= other.bytesReceived
    }
}

/// What a connection carried, by kind.
package struct ConnectionCounters: Sendable, Equatable {
    private var kinds: [FrameKind: KindCounters] = [:]

    package subscript(_ kind: FrameKind) -> KindCounters { kinds[kind] ?? KindCounters() }

    mutating func sent(_ frame: Frame) {
        add(KindCounters(framesSent: 1, bytesSent: UInt64(frame.payload.readableBytes)), to: frame.kind)
    }

    mutating func received(_ frame: Frame) {
        add(KindCounters(framesReceived: 1, bytesReceived: UInt64(frame.payload.readableBytes)), to: frame.kind)
    }

    /// Adds another connection's counters: what a peer sent over several connections.
    package mutating func add(_ other: ConnectionCounters) {
        for (kind, counters) in other.kinds { add(counters, to: kind) }
    }

    private mutating func add(_ counters: KindCounters, to kind: FrameKind) {
        kinds[kind, default: KindCounters()].add(counters)
    }

    package init() {}

    /// The counters as a worker's accounting reports them, in the order of the kinds.
    package func links(peer: String) -> [ProtoLinkAccounting] {
        FrameKind.allCases.compactMap { kind in
            guard let counters = kinds[kind] else { return nil }
            var link = ProtoLinkAccounting()
            link.peer = peer
            link.kind = kind.name
            link.framesSent = counters.framesSent
            link.bytesSent = counters.bytesSent
            link.framesReceived = counters.framesReceived
            link.bytesReceived = counters.bytesReceived
            return link
        }
    }
}
