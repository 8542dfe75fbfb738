import Synchronization
package import Wire

/// What connections to each peer carried, those that are over included.
package final class LinkTraffic: Sendable {
    /// The rest of them.
    private static let others = "other"

    private struct State {
        var live: [ObjectIdentifier: (peer: String, connection: Connection)] = [:]
        /// Of connections that are over, by peer.
        var past: [String: ConnectionCounters] = [:]
    }

    private let peerLimit: Int
    private let state = Mutex(State())

    /// - Parameter peerLimit: peers that are told apart once they are gone. Names come from outside; no cluster has so many
    ///   workers.
    package init(peerLimit: Int = 4096) {
        self.peerLimit = peerLimit
    }

    package func opened(_ connection: Connection, peer: String) {
        state.withLock { $0.live[ObjectIdentifier(connection)] = (peer, connection) }
    }

    /// Connections that nobody opened here are ignored.
    package func closed(_ connection: Connection) {
        state.withLock { state in
            guard let (peer, _) = state.live.removeValue(forKey: ObjectIdentifier(connection)) else { return }
            let isKnown = state.past[peer] != nil || state.past.count < peerLimit
            state.past[isKnown ? peer : Self.others, default: ConnectionCounters()].add(connection.accounting)
        }
    }

    /// Frames and bytes by peer and kind.
    package var links: [ProtoLinkAccounting] {
        let (past, live) = state.withLock { ($0.past, Array($0.live.values)) }
        var counters = past
        for (peer, connection) in live {
            counters[peer, default: ConnectionCounters()].add(connection.accounting)
        }
        return counters.sorted { $0.key < $1.key }.flatMap { $0.value.links(peer: $0.key) }
    }

    /// One of the numbers of every peer and kind that have it, with these as labels.
    package func samples(
        _ number: (ProtoLinkAccounting) -> UInt64
    ) -> [(labels: [(String, String)], value: Double)] {
        links.filter { number($0) > 0 }.map { ([("peer", $0.peer), ("kind", $0.kind)], Double(number($0))) }
    }
}
