import Foundation
import JSONText
import Testing
import TestSupport

extension ClusterTests {
    /// What `/metrics` of every process says, against what was asked of them.
    @Suite struct MetricsTests {
        private static let answers = 6
        private static let layers = 6
        private static let expertsUsed = 2.0

        private static func scrape(_ address: String) async throws -> String {
            let port = try #require(address.split(separator: ":").last.flatMap { Int($0) })
            let answer = try await RawSocket.exchange(
                port: port, Array("GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".utf8))
            let head = try #require(answer.firstRange(of: "\r\n\r\n"), "no HTTP answer")
            return String(answer[head.upperBound...])
        }

        @Test func theyCountWhatWasSent() async throws {
            try await withCluster(.even(stages: 2, workers: 4)) { cluster in
                // Without </s> an answer is as long as it may be.
                let usages = try await withThrowingTaskGroup(of: (prompt: Int, completion: Int).self) { group in
                    for request in 0..<Self.answers {
                        group.addTask {
                            let answer = try await cluster.post(
                                "/v1/completions",
                                #"{"prompt": "Enter \#(request), with a drum.", "max_tokens": \#(9 + request), "#
                                    + #""logit_bias": {"2": -100}}"#)
                            return (
                                try #require(answer["usage"]?["prompt_tokens"]?.integer),
                                try #require(answer["usage"]?["completion_tokens"]?.integer)
                            )
                        }
                    }
                    return try await group.reduce(into: []) { $0.append($1) }
                }
                let prompts = Double(usages.reduce(0) { $0 + $1.prompt })
                let generated = Double(usages.reduce(0) { $0 + $1.completion })
                #expect(generated == 9 + 10 + 11 + 12 + 13 + 14)
                _ = try await cluster.post("/v1/completions", #"{"prompt": "x", "model": "other"}"#)
                _ = try await cluster.post("/v1/completions", "{")

                let home = "127.0.0.1:\(cluster.httpPort)"
                try await eventually("nothing runs") {
                    Scrape(try await Self.scrape(home))["tramontane_num_requests_running"] == 0
                }
                let coordinatorText = try await Self.scrape(home)
                let coordinator = Scrape(coordinatorText)
                let answers = Double(Self.answers)
                func value(_ series: String) -> Double { coordinator["tramontane_\(series)"] }
                #expect(value("prompt_tokens_total") == prompts)
                #expect(value("generation_tokens_total") == generated)
                #expect(value("request_success_total{finished_reason=\"length\"}") == answers)
                #expect(value("request_errors_total{code=\"model_not_found\"}") == 1)
                #expect(coordinator.sum("tramontane_request_errors_total") == 1)
                #expect(value("http_requests_total{handler=\"/v1/completions\",status=\"200\"}") == answers)
                #expect(value("http_requests_total{handler=\"/v1/completions\",status=\"404\"}") == 1)
                #expect(value("http_requests_total{handler=\"/v1/completions\",status=\"400\"}") == 1)
                #expect(value("time_per_output_token_seconds_count") == generated - answers)
                for name in [
                    "time_to_first_token", "request_queue_time", "request_prefill_time", "request_decode_time",
                    "e2e_request_latency",
                ] {
                    #expect(value("\(name)_seconds_count") == answers, "\(name)")
                    #expect(value("\(name)_seconds_sum") > 0, "\(name)")
                }
                #expect(value("request_generation_tokens_sum") == generated)
                #expect(value("num_requests_waiting") == 0)
                #expect(value("kv_cache_pages{state=\"used\"}") == 0)
                #expect(value("workers{state=\"ready\"}") == 4)
                // The last token of an answer is given out and not computed; what the prefix cache had is not either.
                let rows = prompts + generated - answers - value("prefix_cache_hits_total")
                #expect(coordinator.sum("tramontane_step_rows_sum") == rows)

                // Prometheus finds the workers where `status` says that they are.
                let addresses = try await cluster.status().workers.map(\.metricsAddress)
                let listed = try await cluster.get("/metrics/targets")
                let body = try #require(listed.firstRange(of: "\r\n\r\n"))
                let targets = try JSONValue(parsing: String(listed[body.upperBound...])).array ?? []
                #expect(targets.compactMap { $0["targets"]?.array?.first?.string } == addresses)
                #expect(Set(addresses).count == 4)
                var texts = [coordinatorText]
                for address in addresses { texts.append(try await Self.scrape(address)) }
                let workers = texts.dropFirst().map { Scrape($0) }

                // Through the last layer go the rows that a token is read from.
                for layer in 0..<Self.layers {
                    let rows = layer == Self.layers - 1 ? generated : rows
                    let load = workers.reduce(0) { $0 + $1.sum("tramontane_expert_rows_total", "layer=\"\(layer)\"") }
                    #expect(load == rows * Self.expertsUsed, "layer \(layer)")
                }
                let productRows = workers.reduce(0) { $0 + $1["tramontane_expert_product_rows_sum"] }
                #expect(productRows == (rows * Double(Self.layers - 1) + generated) * Self.expertsUsed)
                for stage in 0..<2 {
                    let label = "stage=\"\(stage)\""
                    #expect(workers.reduce(0) { $0 + $1.sum("tramontane_stage_rows_total", label) } == rows)
                    let steps = workers.reduce(0) { $0 + $1.sum("tramontane_stage_step_time_seconds_count", label) }
                    #expect(steps == value("step_rows_count{class=\"decode\"}"), "stage \(stage)")
                }
                let sent = coordinator.sum("tramontane_link_sent_bytes_total", "kind=\"step\"")
                let received = workers.reduce(0) {
                    $0 + $1.sum("tramontane_link_received_bytes_total", "kind=\"step\"", "peer=\"coordinator\"")
                }
                #expect(sent > 0 && sent == received)
                for text in texts {
                    #expect(try Promtool.complaints(about: text) == "")
                }
                try expectDocumented(texts)
            }
        }

        /// docs/metrics.md has everything that there is and nothing else.
        private func expectDocumented(_ texts: [String]) throws {
            let page = try String(contentsOf: Fixtures.root.appending(path: "docs/metrics.md"), encoding: .utf8)
            let documented = Set(
                page.split(separator: "\n").filter { $0.hasPrefix("| `tramontane_") || $0.hasPrefix("| `process_") }
                    .map { String($0.dropFirst(3).prefix { $0 != "`" }) })
            // There are none before the first.
            let unseen: Set = ["tramontane_worker_step_failures_total"]
            #expect(texts.reduce(into: unseen) { $0.formUnion(Scrape($1).families) } == documented)
        }
    }
}
