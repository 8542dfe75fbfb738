import Engine
import Foundation
import ModelStore
import TestSupport
import Testing

/// The BF16 demo against Hugging Face transformers, and every file against llama.cpp.
@Suite struct GoldenTests {
    struct Goldens: Decodable {
        struct Case: Decodable {
            struct Best: Decodable {
                var id: Int32
                var logit: Float

                init(from decoder: any Decoder) throws {
                    var pair = try decoder.unkeyedContainer()
                    id = try pair.decode(Int32.self)
                    logit = try pair.decode(Float.self)
                }
            }

            struct Route: Decodable {
                var experts: [Int]
                var weights: [Float]

                init(from decoder: any Decoder) throws {
                    var pair = try decoder.unkeyedContainer()
                    experts = try pair.decode([Int].self)
                    weights = try pair.decode([Float].self)
                }
            }

            var name: String
            var ids: [Int32]
            var top: [[Best]]
            var lastLogits: [Float]
            var routesLast: [Route]
            var greedy: [Int32]
            var greedyMargin: [Float]
            var meanNll: Double
        }

        var cases: [Case]
    }

    struct Perplexity: Decodable {
        struct File: Decodable {
            var meanNll: [Double]
            var mean: Double
        }

        var windows: [[Int32]]
        var files: [String: File]
        var transformersBf16WeightsFloat32: File
    }

    private static func read<Value: Decodable>(_ path: String) throws -> Value {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Value.self, from: Data(contentsOf: Fixtures.url(path)))
    }

    private static let goldens = Result { try read("demo/goldens.json") as Goldens }
    private static let perplexity = Result { try read("demo/perplexity.json") as Perplexity }

    @Test(arguments: ComputeBackend.allCases)
    func logitsAndRoutes(compute: ComputeBackend) throws {
        let runner = try Models.demo.get().runner(compute: compute)
        for golden in try Self.goldens.get().cases {
            let score = try runner.score(ids: golden.ids, top: runner.engine.shape.vocabulary)
            let last = zip(score.lastLogits, golden.lastLogits).map { abs($0 - $1) }.max() ?? .infinity
            #expect(last < 0.002, "\(golden.name): last logits off by \(last)")
            #expect(score.routesLast.map(\.experts) == golden.routesLast.map(\.experts), "\(golden.name)")
            for (found, expected) in zip(score.routesLast, golden.routesLast) {
                #expect(zip(found.weights, expected.weights).allSatisfy { abs($0 - $1) < 0.001 }, "\(golden.name)")
            }
            var worst: Float = 0
            for (found, expected) in zip(score.top, golden.top) {
                let logits = Dictionary(found.map { ($0.0, $0.1) }, uniquingKeysWith: { first, _ in first })
                for best in expected { worst = max(worst, abs((logits[best.id] ?? .infinity) - best.logit)) }
            }
            #expect(score.top.count == golden.top.count)
            #expect(worst < 0.01, "\(golden.name): the best logits off by \(worst)")
            #expect(
                abs(score.meanNLL - golden.meanNll) < 0.001, "\(golden.name): \(score.meanNLL), not \(golden.meanNll)")
            print("golden \(compute) \(golden.name): last \(last), top \(worst), nll \(score.meanNLL - golden.meanNll)")
        }
    }

    @Test func greedyContinuations() throws {
        let runner = try Models.demo.get().runner()
        for golden in try Self.goldens.get().cases {
            let output = try runner.generate(prompt: golden.ids, parameters: .greedy, maxTokens: golden.greedy.count)
            let sure = golden.greedyMargin.firstIndex { $0 < 0.01 } ?? golden.greedy.count
            #expect(output.ids.prefix(sure) == golden.greedy.prefix(sure), "\(golden.name)")
            #expect(
                (output.finishReason == .stop) == (output.ids.last == runner.engine.shape.endToken), "\(golden.name)")
        }
    }

    /// Mean over the windows of the mean negative log-likelihood, in nats.
    private func meanNLL(_ runner: LocalRunner) throws -> Double {
        let windows = try Self.perplexity.get().windows
        let sum = try windows.reduce(0.0) { try $0 + runner.score(ids: $1, top: 0).meanNLL }
        return sum / Double(windows.count)
    }

    @Test func perplexityOfTheDirectory() throws {
        let found = try meanNLL(try Models.demo.get().runner())
        let expected = try Self.perplexity.get().transformersBf16WeightsFloat32.mean
        #expect(abs(found - expected) < 0.0005)
        print("perplexity safetensors: \(found), off by \(found - expected)")
    }

    @Test(arguments: Models.quantisedFiles)
    func perplexityOfQuantisedFiles(file: String) throws {
        let found = try meanNLL(try Models.quantised(file).runner())
        let listed = file == "demo-q4_0-per-expert.gguf" ? "demo-q4_0.gguf" : file
        let expected = try #require(try Self.perplexity.get().files[listed]).mean
        #expect(abs(found - expected) < 0.005)
        print("perplexity \(file): \(found), off by \(found - expected)")
    }
}
