import Testing
import Tokenizer
import TramontaneClient

extension ClusterTests {
    /// The same request gives the same bits, however it is computed.
    @Suite struct OneResultTests {
        @Test func inOneProcess() async throws {
            let score = try await Reference.score(threads: 1, prefillChunk: 256)
            for (threads, chunk) in [(2, 256), (1, 1), (2, 7), (1, 32)] {
                let other = try await Reference.score(threads: threads, prefillChunk: chunk)
                #expect(other == score, "\(threads) threads, chunks of \(chunk)")
            }
            for generation in Reference.generations {
                let one = try await Reference.generate(generation, threads: 1)
                let other = try await Reference.generate(generation, threads: 2, prefillChunk: 1)
                #expect(one.ids == other.ids)
                #expect(one.text == other.text)
            }
        }

        static let layouts: [Cluster.Layout] = [
            .even(stages: 1, workers: 4),
            .even(stages: 4, workers: 4),
            .topology(
                """
                stages:
                  - layers: 0-2
                    workers:
                      - {name: a, experts: 0-5}
                      - {name: b, experts: 2-7}
                  - layers: 3-5
                    workers:
                      - {name: c, experts: 0-7}
                      - {name: d, experts: [1, 3, 5, 7]}
                """),
        ]

        /// One for each layout.
        static let options = [
            ["--step-tokens", "7", "--threads", "2"], ["--step-tokens", "2"], ["--step-tokens", "32"],
        ]

        @Test(arguments: zip(layouts, options))
        func onClusters(_ layout: Cluster.Layout, _ options: [String]) async throws {
            try await withCluster(layout, options: options) { try await expectReferenceResults(of: $0) }
        }
    }
}

/// A cluster scores and generates what one process does, to the bit.
func expectReferenceResults(of cluster: Cluster) async throws {
    let score = try await Reference.score(["--cluster", cluster.address])
    let reference = try await Reference.score(threads: 2, prefillChunk: 256)
    #expect(score == reference, "the scores differ from one process's")
    let client = try await TramontaneClient.connect(host: "127.0.0.1", port: cluster.listenPort)
    for generation in Reference.generations {
        let reference = try await Reference.generate(generation)
        let completion = try await client.complete(generation.prompt, options: GenerationOptions(generation)).collect()
        #expect(completion.ids.map(Int.init) == reference.ids)
        #expect(completion.text == reference.text)
    }
    await client.close()
}

extension GenerationOptions {
    init(_ generation: Reference.Generation) {
        self.init(
            temperature: Float(generation.temperature), maxTokens: generation.maxTokens, seed: UInt64(generation.seed))
    }
}
