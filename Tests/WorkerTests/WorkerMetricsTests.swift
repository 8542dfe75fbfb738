import ModelStore
import TestSupport
import Testing
import Transport
import Wire
import Worker

@Suite(.timeLimit(.minutes(2))) struct WorkerMetricsTests {
    private static func step(_ driver: inout TestCluster.Driver, _ tokens: [Int32]) -> ProtoStep {
        var step = ProtoStep()
        step.class = tokens.count > 1 ? .prefill : .decode
        step.rows = [driver.rows(tokens, sample: true)]
        return step
    }

    @Test func rowsOfStepsLayersAndExperts() async throws {
        let model = try TestModels.tiny.get()
        let cluster = TestCluster(model: model)
        try await cluster.start(
            stages: [
                [.init(name: "a", experts: [0, 1, 2]), .init(name: "b", experts: [3, 4])],
                [.init(name: "c", experts: [0, 1, 2, 3, 4])],
            ], lanes: [["a", "c"]])
        var sampling = ProtoSamplingParameters()
        sampling.topP = 1
        var driver = TestCluster.Driver(lane: 0, sequence: 1, pages: [0], sampling: sampling)
        for tokens in [[1, 5, 6], [7], [8]] as [[Int32]] {
            _ = try await cluster.result(of: cluster.send(Self.step(&driver, tokens)))
        }
        // A step that does not follow on the last.
        var late = Self.step(&driver, [9])
        (late.stepID, late.tableSequence) = (9, 9)
        cluster.resend(late)
        await #expect(throws: Failure.self) { try await cluster.result(of: late) }

        let workers = try ["a", "b", "c"].map { Scrape(try cluster.metrics(of: $0)) }
        let used = Double(model.manifest.shape.expertsUsed)
        let layers = model.manifest.shape.layers
        for layer in 0..<layers {
            let rows = workers.reduce(0) { $0 + $1.sum("tramontane_expert_rows_total", "layer=\"\(layer)\"") }
            // Of the five rows three give a token, and only those go through the last layer.
            #expect(rows == (layer == layers - 1 ? 3 : 5) * used, "layer \(layer)")
        }
        // Experts that a worker holds are there from the start, others never.
        for (name, scrape) in zip(["a", "b", "c"], workers) {
            let held = scrape.values.keys.filter { $0.hasPrefix("tramontane_expert_rows_total{") }
            #expect(held.count == ["a": 3, "b": 2, "c": 5][name, default: 0] * model.manifest.shape.layers / 2)
            let accounting = try cluster.accounting(of: name)
            #expect(scrape["tramontane_expert_product_rows_sum"] == Double(accounting.expertRows))
            #expect(scrape["tramontane_expert_product_rows_count"] == Double(accounting.expertProducts))
            // An item has one product, or one of each expert, computed beside each other.
            let items = scrape["tramontane_worker_item_time_seconds_count{kind=\"expert\"}"]
            let (products, experts) = (Double(accounting.expertProducts), Double(held.count))
            #expect(items <= products && items * experts >= products)
            #expect(scrape["tramontane_expert_remote_rows_total"] == Double(accounting.expertRowsRemote))
            #expect(scrape["tramontane_worker_kv_cache_pages"] == 64)
            #expect(scrape["tramontane_worker_weight_bytes"] > 0)
            #expect(scrape["tramontane_worker_busy_seconds_total"] > 0)
            #expect(try Promtool.complaints(about: cluster.metrics(of: name)) == "")
        }
        #expect(workers[1]["tramontane_expert_remote_rows_total"] > 0)
        for (stage, scrape) in [workers[0], workers[2]].enumerated() {
            func labels(_ workClass: String) -> String { "{class=\"\(workClass)\",stage=\"\(stage)\"}" }
            #expect(scrape["tramontane_stage_rows_total\(labels("prefill"))"] == 3)
            #expect(scrape["tramontane_stage_rows_total\(labels("decode"))"] == 2)
            #expect(scrape["tramontane_stage_step_time_seconds_count\(labels("prefill"))"] == 1)
            #expect(scrape["tramontane_stage_step_time_seconds_count\(labels("decode"))"] == 2)
        }
        #expect(workers[0]["tramontane_worker_step_failures_total{code=\"page_table_gap\"}"] == 1)
        // What one sent the other received.
        let link = "kind=\"hidden\",peer"
        #expect(workers[0]["tramontane_link_sent_bytes_total{\(link)=\"c\"}"] > 0)
        #expect(
            workers[0]["tramontane_link_sent_bytes_total{\(link)=\"c\"}"]
                == workers[2]["tramontane_link_received_bytes_total{\(link)=\"a\"}"])
        try await cluster.stop()
    }
}
