import CKernels
import Foundation
import Testing

@Suite("Operations on rows")
struct RowTests {
    /// The 16-lane strided tree, written down once more.
    static func stridedSum(_ terms: [Float]) -> Float {
        var lanes = [Float](repeating: 0, count: 16)
        for (i, term) in terms.enumerated() { lanes[i % 16] += term }
        for width in [8, 4, 2, 1] {
            for lane in 0..<width { lanes[lane] += lanes[lane + width] }
        }
        return lanes[0]
    }

    static let lengths = [1, 2, 15, 16, 17, 31, 48, 100, 256]

    @Test("RMSNorm")
    func norm() {
        var generator = SeededGenerator(seed: 1)
        for n in Self.lengths {
            let x = generator.floats(n, spread: 3)
            let weight = generator.floats(n)
            func run(_ isa: tk_isa) -> [Float] {
                var out = [Float](repeating: 0, count: n)
                tk_rmsnorm(isa, x, weight, n, 1e-5, &out)
                return out
            }
            let expected = run(TK_ISA_PORTABLE)
            let mean = x.map { Double($0) * Double($0) }.reduce(0, +) / Double(n)
            for i in 0..<n {
                let truth = Double(x[i]) / (mean + 1e-5).squareRoot() * Double(weight[i])
                #expect(abs(Double(expected[i]) - truth) <= 1e-6 * abs(truth))
            }
            for isa in vectorSets { #expect(bits(run(isa)) == bits(expected), "\(name(isa)) \(n)") }
            var inPlace = x
            tk_rmsnorm(TK_ISA_PORTABLE, inPlace, weight, n, 1e-5, &inPlace)
            #expect(bits(inPlace) == bits(expected))
        }
    }

    @Test("Softmax sums in the strided tree")
    func softmax() {
        var generator = SeededGenerator(seed: 2)
        for n in Self.lengths {
            let x = generator.floats(n, spread: 4)
            func run(_ isa: tk_isa) -> [Float] {
                var out = x
                tk_softmax(isa, &out, n)
                return out
            }
            let largest = x.max() ?? 0
            var terms = x.map { $0 - largest }
            tk_exp(TK_ISA_PORTABLE, terms, n, &terms)
            let sum = Self.stridedSum(terms)
            let expected = bits(terms.map { $0 / sum })
            for isa in availableSets { #expect(bits(run(isa)) == expected, "\(name(isa)) \(n)") }
        }
        for isa in availableSets {
            var withNaN: [Float] = [1, .nan, 2]
            tk_softmax(isa, &withNaN, 3)
            #expect(withNaN.contains { $0.isNaN })
            var masked: [Float] = [-.infinity, 0, -.infinity]
            tk_softmax(isa, &masked, 3)
            #expect(masked == [0, 1, 0])
        }
    }

    @Test("Additions, scaling and the mixture's sum")
    func combinations() {
        var generator = SeededGenerator(seed: 3)
        for n in Self.lengths {
            let x = generator.floats(n)
            let outputs = (0..<3).map { _ in generator.floats(n) }
            let weights = generator.floats(3)
            for isa in availableSets {
                var sum = x
                tk_add(isa, &sum, outputs[0], n)
                #expect(sum == zip(x, outputs[0]).map(+))
                var scaled = x
                tk_scale(isa, x, weights[0], n, &scaled)
                #expect(scaled == x.map { $0 * weights[0] })
                for count in 0...3 {
                    var mixed = x
                    outputs[0].withUnsafeBufferPointer { first in
                        outputs[1].withUnsafeBufferPointer { second in
                            outputs[2].withUnsafeBufferPointer { third in
                                let pointers = [first, second, third].compactMap(\.baseAddress)
                                tk_combine(isa, &mixed, pointers, weights, count, n)
                            }
                        }
                    }
                    var expected = x
                    for i in 0..<n where count > 0 {
                        var y = outputs[0][i] * weights[0]
                        for e in 1..<count {
                            let weighted = outputs[e][i] * weights[e]
                            y += weighted
                        }
                        expected[i] += y
                    }
                    #expect(bits(mixed) == bits(expected), "\(name(isa)) \(n) \(count)")
                }
            }
        }
    }

    @Test("The router takes the best, lower index first, NaN last", arguments: availableSets)
    func router(isa: tk_isa) {
        func route(_ logits: [Float], _ used: Int) -> ([Int32], [Float]) {
            var scratch = logits
            var chosen = [Int32](repeating: -1, count: used)
            var weights = [Float](repeating: 0, count: used)
            tk_route(isa, logits, logits.count, used, &scratch, &chosen, &weights)
            return (chosen, weights)
        }
        #expect(route([1, 3, 3, 2], 2).0 == [1, 2])
        #expect(route([1, 3, 3, 2], 2).1 == [0.5, 0.5])
        #expect(route([0, 0, 0, 0], 3).0 == [0, 1, 2])
        #expect(route([5], 1).1 == [1])
        #expect(Set(route([.nan, 1, 2, .nan], 4).0) == [0, 1, 2, 3])
        let (chosen, weights) = route([0.1, -2, 1.5, 0.9, 1.4, -1, 0, 0.3], 2)
        #expect(chosen == [2, 4])
        #expect(abs(weights[0] - 1 / (1 + Float(exp(-0.1)))) < 1e-6)
        #expect(abs(weights[0] + weights[1] - 1) < 1e-6)
        var generator = SeededGenerator(seed: 5)
        for experts in [8, 13, 64] {
            let logits = generator.floats(experts, spread: 2)
            var scratch = logits
            var expected = [Int32](repeating: 0, count: 4)
            var weights = [Float](repeating: 0, count: 4)
            tk_route(TK_ISA_PORTABLE, logits, experts, 4, &scratch, &expected, &weights)
            let found = route(logits, 4)
            #expect(found.0 == expected && bits(found.1) == bits(weights))
        }
    }

    @Test("Rotary embedding turns pairs by position times frequency")
    func rotary() {
        var generator = SeededGenerator(seed: 6)
        for (headDimension, heads) in [(32, 3), (128, 2), (10, 2)] {
            let half = headDimension / 2
            var cosines = [Float](repeating: 0, count: 4 * half)
            var sines = cosines
            tk_rotary_table(1_000_000, headDimension, 60_000, 4, &cosines, &sines)
            let row = generator.floats(heads * headDimension)
            for position in 0..<4 {
                let c = Array(cosines[position * half..<(position + 1) * half])
                let s = Array(sines[position * half..<(position + 1) * half])
                var expected = row
                var worst = 0.0
                for head in 0..<heads {
                    for i in 0..<half {
                        let angle = Double(60_000 + position) * pow(1_000_000, -2 * Double(i) / Double(headDimension))
                        worst = max(worst, abs(Double(c[i]) - cos(angle)), abs(Double(s[i]) - sin(angle)))
                        let a = row[head * headDimension + i]
                        let b = row[head * headDimension + half + i]
                        let bs = b * s[i]
                        let sa = a * s[i]
                        expected[head * headDimension + i] = (-bs).addingProduct(a, c[i])
                        expected[head * headDimension + half + i] = sa.addingProduct(b, c[i])
                    }
                }
                #expect(worst < 1e-7)
                for isa in availableSets {
                    var turned = row
                    tk_rotary_apply(isa, &turned, heads, headDimension, c, s)
                    #expect(bits(turned) == bits(expected), "\(name(isa)) \(headDimension)")
                }
            }
        }
    }

    @Test("Only finite rows are finite", arguments: availableSets)
    func finite(isa: tk_isa) {
        for n in Self.lengths {
            var x = [Float](repeating: -.greatestFiniteMagnitude, count: n)
            #expect(tk_all_finite(isa, x, n))
            for bad in [Float.nan, .infinity, -.infinity] {
                x[n - 1] = bad
                #expect(!tk_all_finite(isa, x, n))
            }
        }
    }
}
