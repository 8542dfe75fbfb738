import Foundation
import JSONText
import ModelStore
import Testing
import TestSupport
import TramontaneClient

extension ClusterTests {
    /// What the demo runs: 4 workers in 2 stages, 4 experts each.
    @Suite(.serialized, .cluster(.even(stages: 2, workers: 4))) struct SharedClusterTests {
        @Test func oneResult() async throws {
            try await expectReferenceResults(of: Cluster.required())
        }

        /// Until the accounting shows steps of several requests and a product of several homes' rows, with every answer
        /// compared.
        @Test func amongOthers() async throws {
            let cluster = try Cluster.required()
            let client = try await TramontaneClient.connect(host: "127.0.0.1", port: cluster.listenPort)
            let generation = Reference.generations[1]
            let reference = try await Reference.generate(generation)
            let referenceScore = try await Reference.score(threads: 1, prefillChunk: 256)
            var merged = false
            for round in 0..<20 where !merged {
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for other in 0..<8 {
                        group.addTask {
                            var options = GenerationOptions(
                                temperature: 1, maxTokens: 40, seed: UInt64(other + 8 * round))
                            options.logitBias = [2: -100]
                            _ = try await client.complete("Act \(other).", options: options).collect()
                        }
                    }
                    for _ in 0..<2 {
                        group.addTask {
                            let stream = client.complete(generation.prompt, options: GenerationOptions(generation))
                            let completion = try await stream.collect()
                            #expect(completion.ids.map(Int.init) == reference.ids)
                        }
                    }
                    group.addTask {
                        let score = try await Reference.score(["--cluster", cluster.address])
                        #expect(score == referenceScore)
                    }
                    try await group.waitForAll()
                }
                let accounting = try await cluster.status().workers.map(\.accounting)
                merged =
                    accounting.contains { $0.maximumRequestsInStep >= 4 }
                    && accounting.contains { $0.maximumHomesInProduct >= 2 }
            }
            #expect(merged, "no step of 4 requests, or no product with rows of 2 homes")
            await client.close()
        }

        /// No worker maps what it does not hold, and rows go from worker to worker.
        @Test func sharded() async throws {
            let cluster = try Cluster.required()
            let manifest = try DemoStore.required().manifest()
            let client = try await TramontaneClient.connect(host: "127.0.0.1", port: cluster.listenPort)
            // At once, so that every lane has some.
            try await withThrowingTaskGroup(of: Void.self) { group in
                for prompt in 0..<8 {
                    group.addTask {
                        let options = GenerationOptions(maxTokens: 8)
                        _ = try await client.complete("Enter \(prompt)", options: options).collect()
                    }
                }
                try await group.waitForAll()
            }
            await client.close()
            func sent(_ kind: String, _ worker: StatusReport.Worker) -> [StatusReport.Link] {
                worker.accounting.links.filter { $0.kind == kind && $0.framesSent > 0 }
            }
            // The accounting comes with the heartbeats.
            try await eventually("every worker sent rows to another") {
                try await cluster.status().workers.allSatisfy { !sent("experts", $0).isEmpty }
            }
            let workers = try await cluster.status().workers
            #expect(workers.count == 4)
            let names = Set(workers.map(\.name))
            for worker in workers {
                var held: Set<String> = []
                for layer in manifest.layers[worker.firstLayer..<worker.firstLayer + worker.layerCount] {
                    held.insert(layer.dense.sha256)
                    for expert in worker.experts { held.insert(layer.experts[expert].sha256) }
                }
                let allowed = held.union([manifest.embedding.sha256, manifest.head.sha256])
                let mapped = Set(worker.accounting.mappedBlobs)
                #expect(mapped.isSuperset(of: held) && mapped.isSubset(of: allowed), "\(worker.name)")
                let maps = try String(contentsOfFile: "/proc/\(worker.processId)/maps", encoding: .utf8)
                for layer in manifest.layers {
                    for blob in layer.experts + [layer.dense] where !held.contains(blob.sha256) {
                        #expect(!maps.contains(blob.sha256), "\(worker.name) maps a blob that it does not hold")
                    }
                }
                for link in worker.accounting.links where ["experts", "expertResults", "hidden"].contains(link.kind) {
                    #expect(names.contains(link.peer) && link.peer != worker.name, "\(link.kind) with \(link.peer)")
                }
            }
            let firstStage = workers.filter { $0.stage == 0 }
            #expect(firstStage.count == 2 && firstStage.contains { !sent("hidden", $0).isEmpty })
        }

        /// PyPI's client, the SDK and a client written from the documents, on the same seed.
        @Test func clientsOfAllKinds() async throws {
            let cluster = try Cluster.required()
            let python = try await Program.python()
            let tests = Fixtures.root.appending(path: "Tests/Python")
            let questions = Reference.generations.map { generation in
                """
                {"prompt": \(JSONValue.string(generation.prompt).text), "temperature": \(generation.temperature), \
                "seed": \(generation.seed), "max_tokens": \(generation.maxTokens)}

                """
            }
            let lines = try await Program.run(
                [tests.appending(path: "openai_client.py").path, "http://127.0.0.1:\(cluster.httpPort)/v1"],
                input: questions.joined(), executable: python
            ).split(separator: "\n")
            try #require(lines.count == questions.count)

            let client = try await TramontaneClient.connect(host: "127.0.0.1", port: cluster.listenPort)
            for (generation, line) in zip(Reference.generations, lines) {
                let reference = try await Reference.generate(generation).text
                let answers = try JSONValue(parsing: String(line))
                for kind in ["completion", "completion_streamed"] {
                    #expect(answers[kind]?.string == reference, "\(kind)")
                }
                // A chat has no counterpart in `generate`; the SDK asks for the same one.
                let chat = client.chat([.user(generation.prompt)], options: GenerationOptions(generation))
                let text = try await chat.collect().text
                for kind in ["chat", "chat_streamed"] { #expect(answers[kind]?.string == text, "\(kind)") }
                #expect(answers["usage_agrees"] == .bool(true))
                #expect(answers["cached_tokens"]?.array?.count == 2)
            }
            await client.close()

            let generation = Reference.generations[1]
            let wire = try await Program.run(
                [
                    tests.appending(path: "wire_client.py").path, "--host", "127.0.0.1", "--port",
                    String(cluster.listenPort), "--prompt", generation.prompt, "--temperature",
                    String(generation.temperature), "--seed", String(generation.seed), "--max-tokens",
                    String(generation.maxTokens),
                ], executable: python)
            let reference = try await Reference.generate(generation).text
            #expect(try JSONValue(parsing: wire)["text"]?.string == reference, "the client in Python")
        }

        /// Bad input over real sockets leaves the processes alone.
        @Test func badInput() async throws {
            let cluster = try Cluster.required()
            let before = try await cluster.status().workers.map(\.processId)
            var oversized: [UInt8] = Array("TRMN".utf8) + [1, 0, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF]
            oversized += [UInt8](repeating: 0, count: 20)
            let inputs: [[UInt8]] = [
                Array("GET / HTTP/1.1\r\nHost: t\r\n\r\n".utf8), oversized, [UInt8](repeating: 0xA5, count: 100_000),
            ]
            for input in inputs {
                // Each port gets what it does not speak; an answer or a close, in time.
                _ = try await RawSocket.exchange(port: cluster.listenPort, input)
                _ = try await RawSocket.exchange(
                    port: cluster.httpPort, Array("Connection: close\r\n".utf8) + input)
            }
            let long = String(repeating: "word ", count: 20_000)
            let tooLong = try await cluster.post("/v1/completions", #"{"prompt": "\#(long)"}"#)
            #expect(tooLong["error"]?["code"]?.string == "context_length_exceeded")
            let unknown = try await cluster.post("/v1/completions", #"{"prompt": "x", "model": "other"}"#)
            #expect(unknown["error"]?["code"]?.string == "model_not_found")
            #expect(try await cluster.get("/health").hasPrefix("HTTP/1.1 200"))
            #expect(try await cluster.get("/ready").hasPrefix("HTTP/1.1 200"))
            #expect(try await cluster.status().workers.map(\.processId) == before)
        }
    }
}
