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
    /// By the kind's place among all kinds.
    private var kinds = [KindCounters](repeating: KindCounters(), count: FrameKind.allCases.count)

    package subscript(_ kind: FrameKind) -> KindCounters { kinds[kind.place] }

    mutating func sent(_ kind: FrameKind, payloadBytes: Int) {
        kinds[kind.place].framesSent &+= 1
        kinds[kind.place].bytesSent &+= UInt64(payloadBytes)
    }

    mutating func received(_ kind: FrameKind, payloadBytes: Int) {
        kinds[kind.place].framesReceived &+= 1
        kinds[kind.place].bytesReceived &+= UInt64(payloadBytes)
    }

    /// Adds another connection's counters: what a peer sent over several connections.
    package mutating func add(_ other: ConnectionCounters) {
        for (place, counters) in other.kinds.enumerated() { kinds[place].add(counters) }
    }

    package init() {}

    /// The counters as a worker's accounting reports them, in the order of the kinds.
    package func links(peer: String) -> [ProtoLinkAccounting] {
        FrameKind.allCases.compactMap { kind in
            let counters = self[kind]
            guard counters != KindCounters() else { return nil }
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
