import Gateway
import JSONText
import Logging
import Prometheus
import ServiceLifecycle
import TestSupport
import Testing

@Suite struct MetricsTests {
    private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    @Test func whatTheRegistryHolds() async throws {
        let registry = PrometheusRegistry()
        registry.sample(MetricDescription(.counter, "a_total", "A.")) { [([("label", "\"quoted\"")], 3)] }
        try await withGateway(ScriptedService(), metrics: registry) { client in
            let answer = try await client.get("/metrics")
            #expect(answer.status == 200)
            #expect(answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
            #expect(Scrape(answer.body)["a_total{label=\"\\\"quoted\\\"\"}"] == 3)
        }
    }

    /// By the route and not by the path, of which there are as many as anybody likes.
    @Test func requestsByPathAndStatus() async throws {
        let registry = PrometheusRegistry()
        try await withGateway(ScriptedService("a"), metrics: registry) { client in
            _ = try await client.post("/v1/completions", #"{"prompt": "x"}"#)
            _ = try await client.post("/v1/completions", #"{"prompt": "x", "stream": true}"#)
            _ = try await client.post("/v1/completions", "{")
            _ = try await client.get("/v1/completions")
            _ = try await client.get("/v1/models/one")
            _ = try await client.get("/v1/models/two")
            _ = try await client.get("/some/where")
            let found = Scrape(try await client.get("/metrics").body)
            func count(_ handler: String, _ status: Int) -> Double {
                found["tramontane_http_requests_total{handler=\"\(handler)\",status=\"\(status)\"}"]
            }
            #expect(count("/v1/completions", 200) == 2)
            #expect(count("/v1/completions", 400) == 1)
            #expect(count("/v1/completions", 405) == 1)
            #expect(count("/v1/models/**", 404) == 2)
            #expect(count("NotFound", 404) == 1)
        }
    }

    /// In the form that Prometheus's HTTP service discovery reads.
    @Test func whereTheWorkersAre() async throws {
        let service = ScriptedService(targets: [
            MetricsTarget(worker: "a", address: "127.0.0.1:9100"), MetricsTarget(worker: "b", address: "[::1]:9101"),
        ])
        try await withGateway(service) { client in
            let answer = try await client.get("/metrics/targets")
            #expect(answer.headers["content-type"] == "application/json")
            #expect(
                answer.json?.text == """
                    [{"targets": ["127.0.0.1:9100"], "labels": {"worker": "a"}}, \
                    {"targets": ["[::1]:9101"], "labels": {"worker": "b"}}]
                    """)
        }
        try await withGateway(ScriptedService()) { client in
            let none = try await client.get("/metrics/targets")
            #expect(none.body == "[]")
        }
    }

    @Test func anEndpointOfItsOwn() async throws {
        let registry = PrometheusRegistry()
        registry.sample(MetricDescription(.gauge, "load", "Load.")) { [([], 2)] }
        let endpoint = MetricsEndpoint(configuration: .init(port: 0), registry: registry, logger: quiet)
        let group = ServiceGroup(services: [endpoint], logger: quiet)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await group.run() }
            let port = try #require(try await endpoint.listening().split(separator: ":").last.flatMap { Int($0) })
            let client = HTTPClient(port: port)
            #expect(try await client.get("/metrics").body == "# HELP load Load.\n# TYPE load gauge\nload 2\n")
            #expect(try await client.get("/metrics", method: "POST").status == 405)
            let other = try await client.get("/v1/models")
            #expect(other.status == 404)
            #expect(other.error?["message"]?.string?.hasSuffix("see /metrics") == true)
            await group.triggerGracefulShutdown()
        }
    }

    @Test func addressesOfOtherMachinesNeedAFlag() async throws {
        let endpoint = MetricsEndpoint(
            configuration: .init(host: "0.0.0.0", port: 0), registry: PrometheusRegistry(), logger: quiet)
        let error = await #expect(throws: Gateway.AddressError.self) { try await endpoint.run() }
        #expect(error?.description.contains("--insecure-network") == true)
        await #expect(throws: Gateway.AddressError.self) { try await endpoint.listening() }
    }
}
