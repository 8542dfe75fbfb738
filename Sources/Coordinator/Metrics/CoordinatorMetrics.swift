import CoreMetrics
package import NIOCore
package import Prometheus
package import Transport
import Wire

/// What a coordinator measures; docs/metrics.md explains it. Names are vLLM's where the thing is, but for the prefix.
///
/// Its methods take no lock that anybody holds for long and allocate nothing, except where a request fails.
package final class CoordinatorMetrics: Sendable {
    package let registry: PrometheusRegistry
    package let traffic = LinkTraffic()
    /// The peer under which all clients' traffic is counted: their names are their own.
    package static let clients = "clients"

    private let running: Meter
    private let waiting: Meter
    private let usage: Meter
    private let usedPages: Meter
    private let cachedPages: Meter
    private let freePages: Meter
    private let ready: Meter
    private let workers: [(state: Membership.State, meter: Meter)]

    private let promptTokens: Counter
    private let generationTokens: Counter
    private let prefixQueries: Counter
    private let prefixHits: Counter
    private let preemptions: Counter
    private let stopped: Counter
    private let reachedLength: Counter
    private let cancelled: Counter
    private let scored: Counter

    private let firstToken: Timer
    private let perOutputToken: Timer
    private let queueTime: Timer
    private let prefillTime: Timer
    private let decodeTime: Timer
    private let latency: Timer
    private let promptLength: Recorder
    private let generationLength: Recorder

    private let decodeRows: Recorder
    private let prefillRows: Recorder
    private let stepTime: Timer

    private static let errors = MetricDescription(
        .counter, "tramontane_request_errors_total", "Requests that were refused or failed, by code.", seriesLimit: 128)

    package init(registry: PrometheusRegistry = PrometheusRegistry()) {
        self.registry = registry
        running = registry.gauge("tramontane_num_requests_running", "Requests that have a lane.")
        waiting = registry.gauge("tramontane_num_requests_waiting", "Requests that wait for a lane.")
        usage = registry.gauge(
            "tramontane_kv_cache_usage_perc", "KV pages that sequences hold, as a part of all: 0 to 1.")
        func pages(_ state: String) -> Meter {
            registry.gauge(
                "tramontane_kv_cache_pages", "KV pages (32 tokens) of the open lanes, by state.", [("state", state)])
        }
        usedPages = pages("used")
        cachedPages = pages("cached")
        freePages = pages("free")
        ready = registry.gauge("tramontane_ready", "1 while a lane is open, else 0.")
        workers = Membership.State.allCases.map { state in
            let meter = registry.gauge(
                "tramontane_workers", "Workers that the coordinator knows, by state.", [("state", state.rawValue)])
            return (state, meter)
        }

        promptTokens = registry.counter(
            "tramontane_prompt_tokens_total", "Tokens of the prompts that were computed or found in the cache.")
        generationTokens = registry.counter("tramontane_generation_tokens_total", "Tokens that were generated.")
        prefixQueries = registry.counter(
            "tramontane_prefix_cache_queries_total", "Tokens that were looked for in the prefix cache.")
        prefixHits = registry.counter(
            "tramontane_prefix_cache_hits_total", "Tokens that were found in the prefix cache.")
        preemptions = registry.counter(
            "tramontane_num_preemptions_total", "Sequences that gave their pages back and were replayed later.")
        func ended(_ reason: String) -> Counter {
            registry.counter(
                "tramontane_request_success_total", "Requests that ended without an error, by reason.",
                [("finished_reason", reason)])
        }
        stopped = ended("stop")
        reachedLength = ended("length")
        cancelled = ended("abort")
        scored = ended("score")
        registry.declare(Self.errors)

        firstToken = registry.timer(
            "tramontane_time_to_first_token_seconds", "From a request's arrival to its first token.",
            buckets: Buckets.firstToken)
        perOutputToken = registry.timer(
            "tramontane_time_per_output_token_seconds", "From one token of a request to its next.",
            buckets: Buckets.perToken)
        queueTime = registry.timer(
            "tramontane_request_queue_time_seconds", "From a request's admission to its place in a lane.",
            buckets: Buckets.request)
        prefillTime = registry.timer(
            "tramontane_request_prefill_time_seconds", "From a request's place in a lane to its first token.",
            buckets: Buckets.request)
        decodeTime = registry.timer(
            "tramontane_request_decode_time_seconds", "From a finished request's first token to its last.",
            buckets: Buckets.request)
        latency = registry.timer(
            "tramontane_e2e_request_latency_seconds", "From a finished request's arrival to its last token.",
            buckets: Buckets.request)
        promptLength = registry.histogram(
            "tramontane_request_prompt_tokens", "Tokens of a finished request's prompt.", buckets: Buckets.tokens)
        generationLength = registry.histogram(
            "tramontane_request_generation_tokens", "Tokens that a finished request was given.", buckets: Buckets.tokens
        )

        func rows(_ workClass: String) -> Recorder {
            registry.histogram(
                "tramontane_step_rows", "Rows of a step: tokens to decode, and tokens of prompts.",
                buckets: Buckets.rows, [("class", workClass)])
        }
        decodeRows = rows("decode")
        prefillRows = rows("prefill")
        stepTime = registry.timer(
            "tramontane_step_time_seconds",
            "From sending a step to its lane's first home to its result, in a lane of one stage without the wait for the one before.",
            buckets: Buckets.step)

        registry.sample(
            MetricDescription(
                .counter, "tramontane_link_sent_bytes_total", "Payload bytes sent, by peer and kind of frame.")
        ) { [traffic] in traffic.samples(\.bytesSent) }
        registry.sample(
            MetricDescription(
                .counter, "tramontane_link_received_bytes_total", "Payload bytes received, by peer and kind of frame.")
        ) { [traffic] in traffic.samples(\.bytesReceived) }
    }

    // MARK: Requests

    /// The request got a lane.
    package func started(_ times: inout RequestTimes, waited: TimeAmount) {
        times.started = times.arrived + waited
        queueTime.recordNanoseconds(waited.nanoseconds)
    }

    /// A token of the answer came.
    package func token(_ times: inout RequestTimes, promptTokens: Int, at now: NIODeadline) {
        generationTokens.increment()
        if let last = times.lastToken {
            perOutputToken.recordNanoseconds((now - last).nanoseconds)
        } else {
            self.promptTokens.increment(by: promptTokens)
            times.firstToken = now
            firstToken.recordNanoseconds((now - times.arrived).nanoseconds)
            if let started = times.started { prefillTime.recordNanoseconds((now - started).nanoseconds) }
        }
        times.lastToken = now
    }

    /// The request ended with an answer, or its client left.
    package func finished(_ reason: FinishReason, _ usage: Usage, _ times: RequestTimes) {
        switch reason {
        case .stop: stopped.increment()
        case .length: reachedLength.increment()
        case .cancelled: return aborted()
        }
        promptLength.record(usage.promptTokens)
        generationLength.record(usage.completionTokens)
        if let first = times.firstToken, let last = times.lastToken {
            decodeTime.recordNanoseconds((last - first).nanoseconds)
            latency.recordNanoseconds((last - times.arrived).nanoseconds)
        }
    }

    /// The client left or cancelled.
    package func aborted() {
        cancelled.increment()
    }

    /// A sequence was scored.
    package func scored(promptTokens: Int) {
        scored.increment()
        self.promptTokens.increment(by: promptTokens)
        promptLength.record(promptTokens)
    }

    /// A request was refused or failed.
    package func failed(code: String) {
        Counter(label: Self.errors.name, dimensions: [("code", code)], factory: registry).increment()
    }

    // MARK: Steps

    package func stepPlanned(decodeRows: Int, prefillRows: Int) {
        self.decodeRows.record(decodeRows)
        self.prefillRows.record(prefillRows)
    }

    /// A step came back, its lane's stages all done.
    package func stepFinished(after time: TimeAmount) {
        stepTime.recordNanoseconds(time.nanoseconds)
    }

    /// A sequence's prompt was looked for in the prefix cache.
    package func prefix(queriedTokens: Int, hitTokens: Int) {
        prefixQueries.increment(by: queriedTokens)
        prefixHits.increment(by: hitTokens)
    }

    package func preempted(_ sequences: Int) {
        preemptions.increment(by: sequences)
    }

    // MARK: What is now

    /// - Parameters:
    ///   - usedPages: that sequences hold
    ///   - cachedPages: that only the prefix cache holds, and that are free as soon as they are wanted
    ///   - totalPages: of all open lanes
    package func observe(running: Int, waiting: Int, usedPages: Int, cachedPages: Int, totalPages: Int) {
        self.running.set(running)
        self.waiting.set(waiting)
        self.usedPages.set(usedPages)
        self.cachedPages.set(cachedPages)
        freePages.set(totalPages - usedPages - cachedPages)
        usage.set(totalPages == 0 ? 0 : Double(usedPages) / Double(totalPages))
    }

    package func observe(_ members: some Collection<Membership.Member>, ready isReady: Bool) {
        ready.set(isReady ? 1 : 0)
        for (state, meter) in workers { meter.set(members.count { $0.state == state }) }
    }

    /// Upper bounds: vLLM's, and some below them, since a small model's token takes less than a millisecond.
    private enum Buckets {
        static let firstToken = [
            0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
            160,
            640, 2560,
        ]
        static let perToken = [
            0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1,
            2.5,
            5, 7.5, 10, 20, 40, 80,
        ]
        static let request = [
            0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
            960,
            1920, 7680,
        ]
        static let step = [
            0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
        ]
        static let tokens: [Double] = [
            1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
        ]
        static let rows: [Double] = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
    }
}
