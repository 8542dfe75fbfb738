import Coordinator
import NIOCore
import Prometheus
import TestSupport
import Testing
import Transport
import Wire

@Suite(.timeLimit(.minutes(1))) struct CoordinatorMetricsTests {
    private func scrape(_ metrics: CoordinatorMetrics) -> Scrape { Scrape(metrics.registry.text) }

    private static func moment(_ milliseconds: Int64) -> NIODeadline {
        .uptimeNanoseconds(0) + .milliseconds(milliseconds)
    }

    @Test func theTimesOfARequest() {
        let metrics = CoordinatorMetrics()
        var times = RequestTimes(arrived: Self.moment(1000))
        metrics.started(&times, waited: .milliseconds(250))
        for time in [1500, 1625, 2000] { metrics.token(&times, promptTokens: 7, at: Self.moment(Int64(time))) }
        metrics.finished(.length, Usage(promptTokens: 7, completionTokens: 3), times)
        let found = scrape(metrics)
        func sum(_ name: String) -> Double { found["tramontane_\(name)_sum"] }
        #expect(sum("request_queue_time_seconds") == 0.25)
        #expect(sum("request_prefill_time_seconds") == 0.25)
        #expect(sum("time_to_first_token_seconds") == 0.5)
        #expect(sum("time_per_output_token_seconds") == 0.5)
        #expect(found["tramontane_time_per_output_token_seconds_count"] == 2)
        #expect(found["tramontane_time_per_output_token_seconds_bucket{le=\"0.15\"}"] == 1)
        #expect(sum("request_decode_time_seconds") == 0.5)
        #expect(sum("e2e_request_latency_seconds") == 1)
        #expect(sum("request_prompt_tokens") == 7)
        #expect(sum("request_generation_tokens") == 3)
        #expect(found["tramontane_prompt_tokens_total"] == 7)
        #expect(found["tramontane_generation_tokens_total"] == 3)
        #expect(found["tramontane_request_success_total{finished_reason=\"length\"}"] == 1)
        #expect(found["tramontane_request_success_total{finished_reason=\"stop\"}"] == 0)
    }

    @Test func stepsPagesAndPrefixes() {
        let metrics = CoordinatorMetrics()
        metrics.stepPlanned(decodeRows: 3, prefillRows: 0)
        metrics.stepPlanned(decodeRows: 2, prefillRows: 128)
        metrics.stepFinished(after: .milliseconds(250))
        metrics.prefix(queriedTokens: 100, hitTokens: 64)
        metrics.preempted(2)
        metrics.observe(running: 4, waiting: 9, usedPages: 30, cachedPages: 20, totalPages: 120)
        let found = scrape(metrics)
        #expect(found["tramontane_step_rows_sum{class=\"decode\"}"] == 5)
        #expect(found["tramontane_step_rows_count{class=\"prefill\"}"] == 2)
        #expect(found["tramontane_step_rows_bucket{class=\"prefill\",le=\"0\"}"] == 1)
        #expect(found["tramontane_step_time_seconds_sum"] == 0.25)
        #expect(found["tramontane_prefix_cache_queries_total"] == 100)
        #expect(found["tramontane_prefix_cache_hits_total"] == 64)
        #expect(found["tramontane_num_preemptions_total"] == 2)
        #expect(found["tramontane_num_requests_running"] == 4)
        #expect(found["tramontane_num_requests_waiting"] == 9)
        #expect(found["tramontane_kv_cache_usage_perc"] == 0.25)
        #expect(found["tramontane_kv_cache_pages{state=\"free\"}"] == 70)
        metrics.observe(running: 0, waiting: 0, usedPages: 0, cachedPages: 0, totalPages: 0)
        #expect(scrape(metrics)["tramontane_kv_cache_usage_perc"] == 0)
    }

    /// Through both doors, with every kind of end.
    @Test func requestsAreCountedOnce() async throws {
        try await withFakeCluster { coordinator, workers, address in
            func value(_ series: String) -> Double { scrape(coordinator.metrics)["tramontane_\(series)"] }
            var prompt = 0
            for try await event in try await coordinator.submit(GenerationRequest(prompt: .text("x"), maxTokens: 5)) {
                if case .finished(_, let usage) = event { prompt = usage.promptTokens }
            }
            await #expect(throws: RequestError.self) {
                try await coordinator.submit(GenerationRequest(model: "other", prompt: .text("x")))
            }
            await #expect(throws: RequestError.self) {
                try await coordinator.score(ScoringRequest(model: "other", input: .text("x"), top: 1))
            }
            _ = try await coordinator.score(ScoringRequest(input: .tokens([1, 5, 6]), top: 1))

            let client = try await FakeClient(address)
            client.generate(1, text: "y", maxTokens: 3, credit: 100)
            _ = await client.until(.finished)
            client.generate(2, text: "", maxTokens: 3, credit: 100)
            #expect(await client.until(.failed).last?.kind == .failed)
            workers[0].hold()
            client.generate(3, text: "z", maxTokens: 3, credit: 100)
            _ = await client.until(.accepted)
            client.connection.send(Frame(.cancel, correlation: 3))
            _ = await client.until(.finished)

            #expect(value("generation_tokens_total") == 8)
            #expect(value("prompt_tokens_total") == Double(2 * prompt + 3))
            #expect(value("request_success_total{finished_reason=\"length\"}") == 2)
            #expect(value("request_success_total{finished_reason=\"abort\"}") == 1)
            #expect(value("request_success_total{finished_reason=\"score\"}") == 1)
            #expect(value("request_errors_total{code=\"model_not_found\"}") == 2)
            #expect(value("request_errors_total{code=\"invalid_prompt\"}") == 1)
            #expect(value("time_to_first_token_seconds_count") == 2)
            #expect(value("time_per_output_token_seconds_count") == 6)
            #expect(value("ready") == 1)
            #expect(value("workers{state=\"ready\"}") == 1)
            // A failure of what runs counts too.
            client.generate(4, text: "z", maxTokens: 3, credit: 100)
            _ = await client.until(.accepted)
            workers[0].die()
            _ = await client.until(.failed)
            #expect(value("request_errors_total{code=\"worker_lost\"}") == 1)
            client.connection.close()
        }
    }

    @Test func bytesByLink() async throws {
        try await withFakeCluster { coordinator, _, address in
            let client = try await FakeClient(address)
            client.generate(1, text: "y", maxTokens: 3, credit: 100)
            let frames = await client.until(.finished)
            let deltas = frames.filter { $0.kind == .delta }.reduce(0) { $0 + $1.payload.readableBytes }
            func sent(_ labels: String...) -> Double {
                let found = scrape(coordinator.metrics)
                return found["tramontane_link_sent_bytes_total{\(labels.joined(separator: ","))}"]
            }
            #expect(sent("kind=\"delta\"", "peer=\"clients\"") == Double(deltas))
            #expect(sent("kind=\"step\"", "peer=\"a\"") > 0)
            // What a connection carried still counts when it is over.
            client.connection.close()
            while await coordinator.status().requests.running > 0 { await Task.yield() }
            #expect(sent("kind=\"delta\"", "peer=\"clients\"") == Double(deltas))
        }
    }

    @Test func aWorkersMetricsAddressIsKnown() async throws {
        try await withFakeCluster { coordinator, _, _ in
            #expect(await coordinator.status().workers.first?.metricsAddress == "127.0.0.1:9100")
        }
    }

    @Test func promtoolAgrees() throws {
        let metrics = CoordinatorMetrics()
        metrics.failed(code: "queue_full")
        #expect(try Promtool.complaints(about: metrics.registry.text) == "")
    }
}
