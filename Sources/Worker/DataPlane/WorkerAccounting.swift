import NIOCore
import Synchronization
import Transport
package import Wire

/// What a worker has done since its start. The data plane writes it, heartbeats and tests read it.
package final class WorkerAccounting: Sendable {
    private struct State {
        var counts = ProtoWorkerAccounting()
        /// Raised with every change, so that heartbeats repeat nothing.
        var version: UInt64 = 0
        var reportedVersion: UInt64?
        var progress: UInt64 = 0
        var queuedItems = 0
        var live: [ObjectIdentifier: (peer: String, connection: Connection)] = [:]
        /// Of connections that are over, by peer.
        var past: [String: ConnectionCounters] = [:]
    }

    private let state = Mutex(State())

    package init() {}

    /// Counters and links as the heartbeat reports them.
    package var report: ProtoWorkerAccounting {
        let (counts, past, live) = state.withLock { ($0.counts, $0.past, Array($0.live.values)) }
        var links = past
        for (peer, connection) in live {
            links[peer, default: ConnectionCounters()].add(connection.accounting)
        }
        var report = counts
        report.links = links.sorted { $0.key < $1.key }.flatMap { $0.value.links(peer: $0.key) }
        return report
    }

    /// Progress, and the counters if they have changed since the last heartbeat: the list of blobs alone is long.
    func heartbeat() -> ProtoHeartbeat {
        var heartbeat = ProtoHeartbeat()
        let hasChanged = state.withLock { state in
            heartbeat.progress = state.progress
            heartbeat.queuedItems = UInt32(clamping: state.queuedItems)
            defer { state.reportedVersion = state.version }
            return state.reportedVersion != state.version
        }
        if hasChanged { heartbeat.accounting = report }
        return heartbeat
    }

    /// A new connection to the coordinator: its first heartbeat says everything.
    func coordinatorKnowsNothing() {
        state.withLock { $0.reportedVersion = nil }
    }

    /// - Parameter peer: a worker's name, or "coordinator".
    func opened(_ connection: Connection, peer: String) {
        state.withLock { state in
            state.version += 1
            state.live[ObjectIdentifier(connection)] = (peer, connection)
        }
    }

    func closed(_ connection: Connection) {
        state.withLock { state in
            state.version += 1
            guard let (peer, _) = state.live.removeValue(forKey: ObjectIdentifier(connection)) else { return }
            // A restarted coordinator or worker keeps its name, so that the table does not grow with time.
            state.past[peer, default: ConnectionCounters()].add(connection.accounting)
        }
    }

    func mapped(_ blobs: [String]) {
        state.withLock { state in
            state.version += 1
            // Since the start: a blob that an earlier placement needed stays on the list.
            let known = Set(state.counts.mappedBlobs)
            state.counts.mappedBlobs = known.union(blobs).sorted()
        }
    }

    func stepBegan(rows: Int, requests: Int) {
        state.withLock { state in
            state.version += 1
            state.counts.steps += 1
            state.counts.rows += UInt64(rows)
            state.counts.maximumRequestsInStep = max(state.counts.maximumRequestsInStep, UInt32(clamping: requests))
        }
    }

    func productComputed(rows: Int, remoteRows: Int, homes: Int) {
        state.withLock { state in
            state.counts.expertProducts += 1
            state.counts.expertRows += UInt64(rows)
            state.counts.expertRowsRemote += UInt64(remoteRows)
            state.counts.maximumHomesInProduct = max(state.counts.maximumHomesInProduct, UInt32(clamping: homes))
        }
    }

    func itemFinished(nanoseconds: Int64, queuedItems: Int) {
        state.withLock { state in
            state.version += 1
            state.progress += 1
            state.queuedItems = queuedItems
            state.counts.busyNanoseconds += UInt64(max(nanoseconds, 0))
        }
    }
}
