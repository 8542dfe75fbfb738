import CoreMetrics
import NIOCore
package import Prometheus
import Synchronization
import Transport
package import Wire

/// What a worker has done since its start. The data plane writes it; heartbeats, tests and whoever asks for its metrics read
/// it.
package final class WorkerAccounting: Sendable {
    private struct State {
        var counts = ProtoWorkerAccounting()
        /// Raised with every change, so that heartbeats repeat nothing.
        var version: UInt64 = 0
        var reportedVersion: UInt64?
        var progress: UInt64 = 0
        var queuedItems = 0
        var shard: WorkerMetrics.Shard?
    }

    private let registry: PrometheusRegistry
    private let metrics: WorkerMetrics
    private let traffic = LinkTraffic()
    private let state = Mutex(State())

    package init(registry: PrometheusRegistry) {
        self.registry = registry
        metrics = WorkerMetrics(registry: registry)
        sample(.counter, "tramontane_worker_busy_seconds_total", "Time in items of work.") {
            Double($0.counts.busyNanoseconds) / 1e9
        }
        sample(.counter, "tramontane_expert_remote_rows_total", "Rows that experts computed here for other workers.") {
            Double($0.counts.expertRowsRemote)
        }
        sample(.gauge, "tramontane_worker_queued_items", "Items of work that wait.") { Double($0.queuedItems) }
        registry.sample(
            MetricDescription(
                .counter, "tramontane_link_sent_bytes_total", "Payload bytes sent, by peer and kind of frame.")
        ) { [traffic] in traffic.samples(\.bytesSent) }
        registry.sample(
            MetricDescription(
                .counter, "tramontane_link_received_bytes_total", "Payload bytes received, by peer and kind of frame.")
        ) { [traffic] in traffic.samples(\.bytesReceived) }
    }

    /// A number that is kept here.
    private func sample(
        _ kind: MetricDescription.Kind, _ name: String, _ help: String, _ read: @escaping @Sendable (State) -> Double
    ) {
        registry.sample(MetricDescription(kind, name, help)) { [weak self] in
            self.map { [(labels: [], value: $0.state.withLock { read($0) })] } ?? []
        }
    }

    /// Counters and links as the heartbeat reports them.
    package var report: ProtoWorkerAccounting {
        var report = state.withLock { $0.counts }
        report.links = traffic.links
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
        traffic.opened(connection, peer: peer)
        state.withLock { $0.version += 1 }
    }

    func closed(_ connection: Connection) {
        traffic.closed(connection)
        state.withLock { $0.version += 1 }
    }

    func mapped(_ blobs: [String]) {
        state.withLock { state in
            state.version += 1
            // Since the start: a blob that an earlier placement needed stays on the list.
            let known = Set(state.counts.mappedBlobs)
            state.counts.mappedBlobs = known.union(blobs).sorted()
        }
    }

    /// A placement holds from now on.
    func placed(_ view: PlacementView, weightBytes: Int, pages: Int) {
        metrics.weightBytes.set(weightBytes)
        metrics.pages.set(pages)
        let shard = WorkerMetrics.Shard(registry, stage: view.stage, layers: view.layers, held: view.experts)
        state.withLock { $0.shard = shard }
    }

    func stepBegan(_ workClass: ProtoStep.Class, rows: Int, requests: Int) {
        state.withLock { state in
            state.version += 1
            state.counts.steps += 1
            state.counts.rows += UInt64(rows)
            state.shard?.steps(workClass).rows.increment(by: rows)
            state.counts.maximumRequestsInStep = max(state.counts.maximumRequestsInStep, UInt32(clamping: requests))
        }
    }

    /// The step has gone on to the next stage, or ended.
    func stepEnded(_ workClass: ProtoStep.Class, after time: TimeAmount) {
        state.withLock { $0.shard }?.steps(workClass).time.recordNanoseconds(time.nanoseconds)
    }

    func stepFailed(code: String) {
        metrics.stepFailed(code: code)
    }

    func productComputed(layer: Int, expert: Int, rows: Int, remoteRows: Int, homes: Int) {
        metrics.productRows.record(rows)
        state.withLock { state in
            state.shard?.computed(layer: layer, expert: expert, rows: rows)
            state.counts.expertProducts += 1
            state.counts.expertRows += UInt64(rows)
            state.counts.expertRowsRemote += UInt64(remoteRows)
            state.counts.maximumHomesInProduct = max(state.counts.maximumHomesInProduct, UInt32(clamping: homes))
        }
    }

    func itemFinished(_ item: WorkItem, nanoseconds: Int64, queuedItems: Int) {
        switch item {
        case .layer: metrics.layerTime.recordNanoseconds(nanoseconds)
        case .expert: metrics.expertTime.recordNanoseconds(nanoseconds)
        case .output: metrics.outputTime.recordNanoseconds(nanoseconds)
        }
        state.withLock { state in
            state.version += 1
            state.progress += 1
            state.queuedItems = queuedItems
            state.counts.busyNanoseconds += UInt64(max(nanoseconds, 0))
        }
    }
}
