import Foundation
import JSONText
import Testing

extension ClusterTests.SharedClusterTests {
    /// A closed loop against a cluster that computes: each answer has all its tokens, and its place in the report.
    @Test func aLoadIsMeasured() async throws {
        let port = try Cluster.required().httpPort
        let json = try JSONValue(
            parsing: try await Program.run([
                "bench", "serve", "--url", "http://127.0.0.1:\(port)", "--concurrency", "3", "--requests", "7",
                "--prompt-tokens", "20", "--shared-prefix", "12", "--output-tokens", "5", "--tenants", "2",
                "--save-detailed", "--json",
            ]))
        #expect(json["completed"]?.integer == 7)
        #expect(json["failed"]?.integer == 0)
        #expect(json["total_input_tokens"]?.integer == 140)
        let tokens = json["output_lens"]?.array?.compactMap(\.integer) ?? []
        #expect(tokens.count == 7)
        #expect(tokens.allSatisfy { (1...5).contains($0) })
        #expect(json["total_output_tokens"]?.integer == tokens.reduce(0, +))
        #expect(json["tenants"]?.array?.compactMap { $0["completed"]?.integer } == [4, 3])
        #expect(json["p99_ttft_ms"] != nil)
    }

    @Test func refusalsAreCountedByCode() async throws {
        let port = try Cluster.required().httpPort
        let result = try await Program.result([
            "bench", "serve", "--url", "http://127.0.0.1:\(port)", "--requests", "3", "--prompt-tokens", "4000",
            "--output-tokens", "5", "--json",
        ])
        #expect(result.status == 1)
        #expect(result.errors.contains("no request was answered"))
        let json = try JSONValue(parsing: result.output)
        #expect(json["errors"]?["400 context_length_exceeded"]?.integer == 3)
    }
}

extension ClusterTests {
    @Suite struct SleepingClusterTests {
        /// Every byte of every stream is what the sleeping workers answered, in all shapes of a cluster.
        @Test(arguments: [(1, 1), (4, 1), (4, 2)])
        func theCoordinatorAlone(workers: Int, stages: Int) async throws {
            let model = try DemoStore.required().model
            let json = try JSONValue(
                parsing: try await Program.run([
                    "bench", "coordinator", "--model", model, "--streams", "6", "--tokens", "40", "--sleep-ms", "0",
                    "--workers", "\(workers)", "--stages", "\(stages)", "--json", "--", "--step-tokens", "7",
                ]))
            #expect(json["completed"]?.integer == 6)
            #expect(json["wrong_bytes"]?.integer == 0)
            #expect(json["errors"] == .object([]))
            #expect(json["p99_result_to_client_ms"] != nil)
            #expect(json["p99_result_to_next_step_ms"] != nil)
        }
    }
}
