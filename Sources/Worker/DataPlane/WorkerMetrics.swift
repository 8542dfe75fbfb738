import CoreMetrics
import Prometheus
import Wire

/// What a worker measures of each item, step and product; docs/metrics.md explains it. Made once: what happens afterwards
/// allocates nothing.
final class WorkerMetrics: Sendable {
    let layerTime: Timer
    let expertTime: Timer
    let outputTime: Timer
    let productRows: Recorder
    let weightBytes: Meter
    let pages: Meter
    private let registry: PrometheusRegistry

    private static let failures = MetricDescription(
        .counter, "tramontane_worker_step_failures_total", "Steps that this worker could not finish, by code.",
        seriesLimit: 128)

    init(registry: PrometheusRegistry) {
        self.registry = registry
        func items(_ kind: String) -> Timer {
            registry.timer(
                "tramontane_worker_item_time_seconds",
                "Items of work: their computation and the sending of what they gave.",
                buckets: [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5],
                [("kind", kind)])
        }
        layerTime = items("layer")
        expertTime = items("expert")
        outputTime = items("output")
        productRows = registry.histogram(
            "tramontane_expert_product_rows", "Rows of one expert's product, from whichever homes.",
            buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])
        weightBytes = registry.gauge("tramontane_worker_weight_bytes", "Weights of the shard that is loaded.")
        pages = registry.gauge("tramontane_worker_kv_cache_pages", "KV pages (32 tokens) that there is memory for.")
        registry.declare(Self.failures)
    }

    func stepFailed(code: String) {
        Counter(label: Self.failures.name, dimensions: [("code", code)], factory: registry).increment()
    }

    /// What is counted apart for one placement.
    struct Shard: Sendable {
        struct Steps: Sendable {
            let time: Timer
            let rows: Counter
        }

        private let decode: Steps
        private let prefill: Steps
        private let firstLayer: Int
        private let experts: Int
        /// By layer of the stage and expert; nil where the expert is elsewhere.
        private let load: [Counter?]

        init(_ registry: PrometheusRegistry, stage: Int, layers: Range<Int>, held: Set<Int>) {
            func steps(_ workClass: String) -> Steps {
                let labels = [("stage", "\(stage)"), ("class", workClass)]
                return Steps(
                    time: registry.timer(
                        "tramontane_stage_step_time_seconds",
                        "From a step's arrival in this worker's stage until it leaves it.",
                        buckets: [
                            0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
                            5,
                            10, 30, 60,
                        ], labels),
                    rows: registry.counter(
                        "tramontane_stage_rows_total", "Rows of the steps of which this worker was the home.", labels))
            }
            decode = steps("decode")
            prefill = steps("prefill")
            firstLayer = layers.lowerBound
            let experts = (held.max() ?? -1) + 1
            self.experts = experts
            load = layers.flatMap { layer in
                (0..<experts).map { expert in
                    guard held.contains(expert) else { return nil }
                    return registry.counter(
                        "tramontane_expert_rows_total", "Rows that an expert computed here.",
                        [("layer", "\(layer)"), ("expert", "\(expert)")])
                }
            }
        }

        func steps(_ workClass: ProtoStep.Class) -> Steps {
            workClass == .prefill ? prefill : decode
        }

        func computed(layer: Int, expert: Int, rows: Int) {
            let index = (layer - firstLayer) * experts + expert
            guard load.indices.contains(index) else { return }
            load[index]?.increment(by: rows)
        }
    }
}
