import Engine
import Foundation
import ModelStore
import TestSupport
import Testing

/// Shapes that the demo does not have, against a decoder written down plainly in float64.
@Suite struct TinyModelTests {
    static let shapes: [(name: String, model: TinyModel)] = {
        var grouped = TinyModel()
        (grouped.heads, grouped.keyValueHeads, grouped.headDimension) = (6, 2, 10)
        (grouped.hidden, grouped.feedForward, grouped.experts, grouped.expertsUsed) = (35, 21, 3, 1)
        (grouped.layers, grouped.vocabulary, grouped.seed) = (1, 301, 2)
        var all = TinyModel()
        (all.heads, all.keyValueHeads, all.headDimension, all.experts, all.expertsUsed, all.seed) = (4, 1, 2, 4, 4, 3)
        var one = TinyModel()
        (one.experts, one.expertsUsed, one.layers, one.ropeTheta, one.seed) = (1, 1, 3, 500, 4)
        return [("three-of-five", TinyModel()), ("grouped", grouped), ("all-experts", all), ("one-expert", one)]
    }()

    private func ids(_ count: Int, vocabulary: Int) -> [Int32] {
        var random = SeededGenerator(seed: 8)
        return (0..<count).map { _ in Int32.random(in: 0..<Int32(vocabulary), using: &random) }
    }

    @Test(arguments: shapes.map(\.name))
    func oddShapes(name: String) throws {
        let tiny = try #require(Self.shapes.first { $0.name == name }).model
        let model = try Models.tiny(tiny, name)
        let ids = ids(70, vocabulary: tiny.vocabulary)
        let score = try model.runner().score(ids: ids, top: 3)
        let reference = ReferenceDecoder(tiny).logits(ids)
        for (position, best) in score.top.enumerated() {
            for (id, logit) in best {
                #expect(abs(Double(logit) - reference[position][Int(id)]) < 0.005, "\(name) at \(position)")
            }
        }
        let worst = zip(score.lastLogits, reference[ids.count - 1]).map { abs(Double($0) - $1) }.max()
        #expect(try #require(worst) < 0.005, "\(name)")
        for chunk in [1, 9] {
            let again = try model.runner(threads: 2).score(ids: ids, top: 3, prefillChunk: chunk)
            #expect(again.bits == score.bits, "\(name), chunks of \(chunk)")
        }
        let oracle = try model.runner(compute: .openblas).score(ids: ids, top: 3)
        #expect(zip(oracle.lastLogits, score.lastLogits).allSatisfy { abs($0 - $1) < 0.005 }, "\(name)")
    }
}

/// Mixtral from its definition, nothing shared with the engine: whole matrices, float64, one token after the other. Keys
/// and values are rounded as a float16 cache rounds them.
private struct ReferenceDecoder {
    private let model: TinyModel
    private let tensors: [String: TinyModel.Tensor]

    init(_ model: TinyModel) {
        self.model = model
        tensors = Dictionary(uniqueKeysWithValues: model.tensors.map { ($0.name, $0) })
    }

    func logits(_ ids: [Int32]) -> [[Double]] {
        let (heads, width) = (model.heads, model.headDimension)
        let group = heads / model.keyValueHeads
        var rows = ids.map { id in row("model.embed_tokens.weight", Int(id)) }
        for layer in 0..<model.layers {
            let prefix = "model.layers.\(layer)."
            var keys: [[Double]] = []
            var values: [[Double]] = []
            for (position, x) in rows.enumerated() {
                let normed = norm(x, prefix + "input_layernorm.weight")
                let query = rotate(multiply(prefix + "self_attn.q_proj.weight", normed), position)
                keys.append(rotate(multiply(prefix + "self_attn.k_proj.weight", normed), position).map(half))
                values.append(multiply(prefix + "self_attn.v_proj.weight", normed).map(half))
                var attended = [Double](repeating: 0, count: heads * width)
                for head in 0..<heads {
                    let shared = head / group * width
                    let scores = keys.map { key in
                        (0..<width).reduce(0.0) { $0 + query[head * width + $1] * key[shared + $1] }
                            / Double(width).squareRoot()
                    }
                    for (weight, value) in zip(softmax(scores), values) {
                        for d in 0..<width { attended[head * width + d] += weight * value[shared + d] }
                    }
                }
                rows[position] = zip(x, multiply(prefix + "self_attn.o_proj.weight", attended)).map(+)
            }
            for (position, x) in rows.enumerated() {
                let normed = norm(x, prefix + "post_attention_layernorm.weight")
                let chances = softmax(multiply(prefix + "block_sparse_moe.gate.weight", normed))
                let best = chances.indices.sorted { chances[$0] > chances[$1] }.prefix(model.expertsUsed)
                let total = best.reduce(0.0) { $0 + chances[$1] }
                for expert in best {
                    let prefix = prefix + "block_sparse_moe.experts.\(expert)."
                    let inner = zip(multiply(prefix + "w1.weight", normed), multiply(prefix + "w3.weight", normed)).map
                    {
                        $0 / (1 + exp(-$0)) * $1
                    }
                    for (index, value) in multiply(prefix + "w2.weight", inner).enumerated() {
                        rows[position][index] += chances[expert] / total * value
                    }
                }
            }
        }
        return rows.map { multiply("lm_head.weight", norm($0, "model.norm.weight")) }
    }

    private func row(_ name: String, _ index: Int) -> [Double] {
        tensors[name].map { tensor in (0..<tensor.shape[1]).map { Double(tensor.values[index * tensor.shape[1] + $0]) }
        } ?? []
    }

    private func multiply(_ name: String, _ x: [Double]) -> [Double] {
        guard let tensor = tensors[name] else { return [] }
        return tensor.values.withUnsafeBufferPointer { weights in
            x.withUnsafeBufferPointer { x in
                (0..<tensor.shape[0]).map { row in
                    var sum = 0.0
                    for column in 0..<x.count { sum += Double(weights[row * x.count + column]) * x[column] }
                    return sum
                }
            }
        }
    }

    private func norm(_ x: [Double], _ name: String) -> [Double] {
        let mean = x.reduce(0) { $0 + $1 * $1 } / Double(x.count)
        let scale = 1 / (mean + model.normEpsilon).squareRoot()
        return zip(x, tensors[name]?.values ?? []).map { $0 * scale * Double($1) }
    }

    private func rotate(_ x: [Double], _ position: Int) -> [Double] {
        let (width, half) = (model.headDimension, model.headDimension / 2)
        var turned = x
        for head in stride(from: 0, to: x.count, by: width) {
            for i in 0..<half {
                let angle = Double(position) * pow(model.ropeTheta, -2 * Double(i) / Double(width))
                turned[head + i] = x[head + i] * cos(angle) - x[head + i + half] * sin(angle)
                turned[head + i + half] = x[head + i + half] * cos(angle) + x[head + i] * sin(angle)
            }
        }
        return turned
    }

    private func softmax(_ x: [Double]) -> [Double] {
        let top = x.max() ?? 0
        let weights = x.map { exp($0 - top) }
        let sum = weights.reduce(0, +)
        return weights.map { $0 / sum }
    }

    private func half(_ x: Double) -> Double {
        Double(Float16(Float(x)))
    }
}
