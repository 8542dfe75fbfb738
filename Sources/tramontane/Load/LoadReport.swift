import Foundation

/// What a load found, for programs and for people. Names in JSON are those of `vllm bench serve` where the thing is the same; times are
/// milliseconds, the duration seconds.
struct LoadReport {
    /// What an answer must keep to count as good.
    struct Bounds: Equatable, Sendable {
        var timeToFirstToken: Double?
        var timePerOutputToken: Double?

        func hold(_ exchange: Exchange) -> Bool {
            guard exchange.outcome == .finished else { return false }
            if let bound = timeToFirstToken, exchange.timeToFirstToken ?? .infinity > bound { return false }
            // An answer of one token has no time between tokens.
            if let bound = timePerOutputToken, exchange.timePerOutputToken ?? 0 > bound { return false }
            return true
        }
    }

    /// The answers of one API key.
    struct Tenant {
        let key: String
        let figures: Figures
    }

    struct Figures {
        let completed: Int
        let failed: Int
        let inputTokens: Int
        let outputTokens: Int
        let cachedTokens: Int
        let endedEarly: Int
        let good: Int
        let goodTokens: Int
        let timeToFirstToken: Distribution
        let timePerOutputToken: Distribution
        let interTokenLatency: Distribution
        let endToEnd: Distribution
        /// Of answers with status 429.
        let refusals: Distribution
        /// By what went wrong, most frequent first.
        let errors: [(name: String, count: Int)]

        init(_ exchanges: [Exchange], bounds: Bounds) {
            let finished = exchanges.filter { $0.outcome == .finished }
            let good = finished.filter(bounds.hold)
            completed = finished.count
            failed = exchanges.count - finished.count
            inputTokens = finished.reduce(0) { $0 + $1.promptTokens }
            outputTokens = finished.reduce(0) { $0 + $1.outputTokens }
            cachedTokens = finished.reduce(0) { $0 + $1.cachedTokens }
            endedEarly = finished.count { $0.endedEarly }
            self.good = good.count
            goodTokens = good.reduce(0) { $0 + $1.outputTokens }
            timeToFirstToken = Distribution(finished.compactMap(\.timeToFirstToken))
            timePerOutputToken = Distribution(finished.compactMap(\.timePerOutputToken))
            interTokenLatency = Distribution(finished.flatMap(\.interTokenLatencies))
            endToEnd = Distribution(finished.map(\.endToEnd))
            refusals = Distribution(exchanges.filter { $0.status == 429 }.map(\.endToEnd))
            var counts: [String: Int] = [:]
            for exchange in exchanges {
                if let error = exchange.error { counts[error, default: 0] += 1 }
            }
            errors = counts.map { (name: $0.key, count: $0.value) }
                .sorted { ($1.count, $0.name) < ($0.count, $1.name) }
        }
    }

    let plan: LoadRun.Plan
    let bounds: Bounds
    let url: String
    let seconds: Double
    let begun: UInt64
    let exchanges: [Exchange]
    let all: Figures
    let tenants: [Tenant]
    /// Cut off by Ctrl-C.
    let unfinished: Int

    init(
        plan: LoadRun.Plan, bounds: Bounds, url: String, begun: UInt64, ended: UInt64, sent: Int, exchanges: [Exchange]
    ) {
        self.plan = plan
        self.bounds = bounds
        self.url = url
        self.begun = begun
        self.exchanges = exchanges.sorted { $0.index < $1.index }
        seconds = Exchange.milliseconds(from: begun, to: ended) / 1e3
        unfinished = sent - exchanges.count
        all = Figures(exchanges, bounds: bounds)
        tenants =
            plan.apiKeys.count < 2
            ? []
            : plan.apiKeys.map { key in
                Tenant(key: key, figures: Figures(exchanges.filter { plan.key(of: $0.index) == key }, bounds: bounds))
            }
    }

    // MARK: JSON

    /// - Parameter detailed: with every request's own figures, as arrays.
    func json(detailed: Bool, date: Date = Date()) -> String {
        JSONLine.object { object in
            object.string("date", date.formatted(.iso8601))
            object.string("endpoint_type", "openai")
            object.string("base_url", url)
            if let model = plan.model { object.string("model_id", model) }
            if let requests = plan.schedule.requests { object.number("num_prompts", requests) }
            if let rate = plan.schedule.rate {
                object.double("request_rate", rate)
            } else {
                object.string("request_rate", "inf")
            }
            object.double("burstiness", 1)
            if let concurrency = plan.schedule.concurrency { object.number("max_concurrency", concurrency) }
            object.number("seed", plan.schedule.seed)
            object.number("prompt_tokens", plan.prompts.tokens)
            object.number("shared_prefix_tokens", plan.prompts.sharedTokens)
            object.number("max_output_tokens", plan.outputTokens)
            object.rounded("duration", seconds, digits: 4)
            object.number("unfinished", unfinished)
            write(all, to: &object)
            if !tenants.isEmpty {
                object.objects("tenants", tenants) { object, tenant in
                    object.string("api_key", tenant.key)
                    write(tenant.figures, to: &object)
                }
            }
            if detailed { writeDetails(to: &object) }
        }
    }

    private func write(_ figures: Figures, to object: inout JSONLine.Object) {
        object.number("completed", figures.completed)
        object.number("failed", figures.failed)
        object.number("ended_early", figures.endedEarly)
        object.number("total_input_tokens", figures.inputTokens)
        object.number("total_output_tokens", figures.outputTokens)
        object.number("total_cached_tokens", figures.cachedTokens)
        object.rounded("request_throughput", Double(figures.completed) / seconds, digits: 4)
        object.rounded("output_throughput", Double(figures.outputTokens) / seconds, digits: 4)
        object.rounded(
            "total_token_throughput", Double(figures.inputTokens + figures.outputTokens) / seconds, digits: 4)
        if bounds != Bounds() {
            if let bound = bounds.timeToFirstToken { object.double("goodput_ttft_ms", bound) }
            if let bound = bounds.timePerOutputToken { object.double("goodput_tpot_ms", bound) }
            object.rounded("request_goodput", Double(figures.good) / seconds, digits: 4)
            object.rounded("output_goodput", Double(figures.goodTokens) / seconds, digits: 4)
        }
        object.distribution("ttft_ms", figures.timeToFirstToken)
        object.distribution("tpot_ms", figures.timePerOutputToken)
        object.distribution("itl_ms", figures.interTokenLatency)
        object.distribution("e2el_ms", figures.endToEnd)
        object.number("rejected", figures.refusals.sorted.count)
        object.distribution("rejection_ms", figures.refusals)
        object.object("errors") { object in
            for (name, count) in figures.errors { object.number(name, count) }
        }
    }

    /// Seconds, in the order in which requests were due; null where there is none.
    private func writeDetails(to object: inout JSONLine.Object) {
        func array(_ name: String, _ value: (Exchange) -> Double?) {
            object.member(name) { line in
                line.array(exchanges) { $0.number(((value($1) ?? .nan) * 1e6).rounded() / 1e6) }
            }
        }
        array("start_times") { Exchange.milliseconds(from: begun, to: $0.due) / 1e3 }
        array("ttfts") { $0.timeToFirstToken.map { $0 / 1e3 } }
        array("tpots") { $0.timePerOutputToken.map { $0 / 1e3 } }
        array("e2els") { $0.endToEnd / 1e3 }
        object.numbers("output_lens", exchanges.map(\.outputTokens))
        object.member("request_errors") { line in line.array(exchanges) { $0.string($1.error ?? "") } }
    }

    // MARK: For people

    var table: String {
        var text = """
            \(all.completed) answered, \(all.failed) failed in \(Figure.fixed(seconds, 2)) s\
            \(unfinished > 0 ? ", \(unfinished) cut off" : ""): \
            \(Figure.fixed(Double(all.completed) / seconds, 2)) requests/s, \
            \(Figure.fixed(Double(all.outputTokens) / seconds, 1)) tokens/s out, \
            \(Figure.fixed(Double(all.inputTokens + all.outputTokens) / seconds, 1)) in all\n
            """
        if bounds != Bounds() {
            let parts = [
                bounds.timeToFirstToken.map { "first token within \(Figure.fixed($0, 0)) ms" },
                bounds.timePerOutputToken.map { "\(Figure.fixed($0, 1)) ms a token" },
            ].compactMap { $0 }
            text += """
                goodput (\(parts.joined(separator: ", "))): \(Figure.fixed(Double(all.good) / seconds, 2)) requests/s, \
                \(Figure.fixed(Double(all.goodTokens) / seconds, 1)) tokens/s\n
                """
        }
        if all.endedEarly > 0 {
            text += "\(all.endedEarly) answers ended before \(plan.outputTokens) tokens\n"
        }
        if all.cachedTokens > 0 {
            text += "\(all.cachedTokens) of \(all.inputTokens) prompt tokens were cached\n"
        }
        for (name, count) in all.errors { text += "\(count) failed: \(name)\n" }
        let rows = [
            ("time to first token", all.timeToFirstToken), ("time per output token", all.timePerOutputToken),
            ("between tokens", all.interTokenLatency), ("end to end", all.endToEnd), ("answer 429", all.refusals),
        ].filter { !$0.1.isEmpty }
        guard !rows.isEmpty else { return text }
        text += "\n"
        text += TextTable.columns(
            [["MILLISECONDS"] + Distribution.headings] + rows.map { [$0.0] + $0.1.cells })
        guard !tenants.isEmpty else { return text }
        text += "\n"
        text += TextTable.columns(
            [["TENANT", "ANSWERED", "FAILED", "TOKENS/S", "TTFT P50", "TTFT P99", "TPOT P50", "TPOT P99"]]
                + tenants.map { tenant in
                    let figures = tenant.figures
                    return [tenant.key, "\(figures.completed)", "\(figures.failed)"]
                        + [
                            Double(figures.outputTokens) / seconds, figures.timeToFirstToken.percentile(50),
                            figures.timeToFirstToken.percentile(99), figures.timePerOutputToken.percentile(50),
                            figures.timePerOutputToken.percentile(99),
                        ].map { Figure.fixed($0, 1) }
                })
        return text
    }

    /// Latency over time: of the first token, or of the whole answer where nothing is streamed.
    func plot(columns: Int) -> String {
        let finished = exchanges.filter { $0.outcome == .finished }
        let isStreamed = finished.contains { $0.timeToFirstToken != nil }
        let points = finished.compactMap { exchange -> LatencyPlot.Point? in
            guard let value = isStreamed ? exchange.timeToFirstToken : exchange.endToEnd else { return nil }
            return LatencyPlot.Point(
                seconds: Exchange.milliseconds(from: begun, to: exchange.due) / 1e3, milliseconds: value)
        }
        let title = isStreamed ? "time to first token" : "end to end"
        return LatencyPlot(points: points, seconds: seconds).text(title, columns: columns)
    }
}

/// A latency over time in characters: for each column's requests the median as a full block, up to the largest as a light one.
struct LatencyPlot {
    struct Point: Equatable {
        /// Since the begin.
        var seconds: Double
        var milliseconds: Double
    }

    static let rows = 10
    private static let labelColumns = 10

    let points: [Point]
    /// What the width stands for.
    let seconds: Double

    /// - Returns: lines; none where there are no points.
    func text(_ title: String, columns: Int) -> String {
        let width = max(10, columns - Self.labelColumns - 2)
        let top = points.map(\.milliseconds).max() ?? 0
        guard !points.isEmpty, top > 0, seconds > 0 else { return "" }
        var buckets: [[Double]] = Array(repeating: [], count: width)
        for point in points {
            let place = Int(point.seconds / seconds * Double(width))
            buckets[min(max(place, 0), width - 1)].append(point.milliseconds)
        }
        let figures = buckets.map(Distribution.init)
        func height(_ value: Double) -> Int { max(1, Int((value / top * Double(Self.rows)).rounded(.up))) }
        var text = "\(title), median █ and largest ░ of the requests that were due then\n"
        for row in (1...Self.rows).reversed() {
            let value = top * Double(row) / Double(Self.rows)
            let label = row == Self.rows || row == Self.rows / 2 ? "\(Figure.fixed(value, 1)) ms" : ""
            var line = String(repeating: " ", count: max(0, Self.labelColumns - label.count)) + label + " │"
            for bucket in figures {
                let isFilled = !bucket.isEmpty
                line +=
                    isFilled && height(bucket.percentile(50)) >= row
                    ? "█" : isFilled && height(bucket.max) >= row ? "░" : " "
            }
            while line.last == " " { line.removeLast() }
            text += line + "\n"
        }
        let end = "\(Figure.fixed(seconds, 1)) s"
        text += String(repeating: " ", count: Self.labelColumns) + " └" + String(repeating: "─", count: width) + "\n"
        text += String(repeating: " ", count: Self.labelColumns + 2) + "0"
        text += String(repeating: " ", count: max(1, width - 1 - end.count)) + end + "\n"
        return text
    }
}
