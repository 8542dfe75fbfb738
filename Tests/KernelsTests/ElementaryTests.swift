import CKernels
import Foundation
import Testing

@Suite("Elementary functions")
struct ElementaryTests {
    /// The distance of `value` from the true result, in units of the last place of its float32.
    static func ulps(_ value: Float, _ truth: Double) -> Double {
        let rounded = Float(truth)
        return abs(Double(value) - truth) / Double(rounded.ulp)
    }

    static func exponential(_ isa: tk_isa, _ x: [Float]) -> [Float] {
        var out = [Float](repeating: 0, count: x.count)
        tk_exp(isa, x, x.count, &out)
        return out
    }

    @Test("exp is within 2 ulp from the smallest denormal to the largest number")
    func exponentials() {
        var generator = SeededGenerator(seed: 1)
        let x =
            (0..<20_000).map { _ in Float.random(in: -103.2...88.7, using: &generator) }
            + generator.floats(5_000, spread: 12).filter { abs($0) < 88 }
        let y = Self.exponential(TK_ISA_PORTABLE, x)
        let worst = zip(x, y).map { Self.ulps($1, exp(Double($0))) }.max() ?? 0
        #expect(worst <= 2)
        for isa in vectorSets {
            #expect(bits(Self.exponential(isa, x)) == bits(y), "\(name(isa))")
        }
    }

    @Test("exp at the edges", arguments: availableSets)
    func exponentialEdges(isa: tk_isa) {
        let x: [Float] = [0, -0.0, -.infinity, -200, -103.98, 88.73, 1e30, .infinity, .nan, .leastNonzeroMagnitude]
        let y = Self.exponential(isa, x)
        #expect(y[0] == 1 && y[1] == 1)
        #expect(y[2...4].allSatisfy { $0 == 0 })
        #expect(y[5...7].allSatisfy { $0 == .infinity })
        #expect(y[8].isNaN)
        #expect(y[9] == 1)
    }

    @Test("silu(gate) * up")
    func silu() {
        var generator = SeededGenerator(seed: 2)
        for count in [1, 15, 16, 17, 4_000] {
            let gate = generator.floats(count, spread: 6)
            let ones = [Float](repeating: 1, count: count)
            let up = generator.floats(count)
            func run(_ isa: tk_isa, _ up: [Float]) -> [Float] {
                var out = [Float](repeating: 0, count: count)
                tk_silu_multiply(isa, gate, up, count, &out)
                return out
            }
            let alone = run(TK_ISA_PORTABLE, ones)
            let worst = zip(gate, alone).map { Self.ulps($1, Double($0) / (1 + exp(-Double($0)))) }.max() ?? 0
            #expect(worst <= 4)
            let product = run(TK_ISA_PORTABLE, up)
            #expect(bits(product) == bits(zip(alone, up).map(*)))
            for isa in vectorSets {
                #expect(bits(run(isa, up)) == bits(product), "\(name(isa)) \(count)")
            }
        }
        var out: [Float] = [0, 0]
        tk_silu_multiply(TK_ISA_PORTABLE, [-1_000, 1_000], [1, 1], 2, &out)
        #expect(out == [0, 1_000])
    }

    @Test("Double-precision exp, log, pow, sin and cos are within 1e-14")
    func doubles() {
        var generator = SeededGenerator(seed: 3)
        var worst = [Double](repeating: 0, count: 5)
        for _ in 0..<5_000 {
            let x = Double.random(in: -700...700, using: &generator)
            worst[0] = max(worst[0], abs(tk_exp_f64(x) / exp(x) - 1))
            let positive = exp(Double.random(in: -700...700, using: &generator))
            worst[1] = max(worst[1], abs(tk_log_f64(positive) - log(positive)) / max(1, abs(log(positive))))
            let base = Double.random(in: 1...2e6, using: &generator)
            let exponent = -Double.random(in: 0...1, using: &generator)
            worst[2] = max(worst[2], abs(tk_pow_f64(base, exponent) / pow(base, exponent) - 1))
            let angle = Double.random(in: -1e6...1e6, using: &generator)
            worst[3] = max(worst[3], abs(tk_sin_f64(angle) - sin(angle)))
            worst[4] = max(worst[4], abs(tk_cos_f64(angle) - cos(angle)))
        }
        #expect(worst.allSatisfy { $0 < 1e-14 }, "exp, log, pow, sin, cos: \(worst)")
        #expect(tk_exp_f64(0) == 1 && tk_exp_f64(-.infinity) == 0 && tk_exp_f64(.infinity) == .infinity)
        #expect(tk_exp_f64(-745) > 0 && tk_exp_f64(710) == .infinity && tk_exp_f64(.nan).isNaN)
        #expect(tk_log_f64(1) == 0 && tk_log_f64(0) == -.infinity && tk_log_f64(.infinity) == .infinity)
        #expect(tk_log_f64(-1).isNaN && tk_log_f64(.nan).isNaN)
        #expect(abs(tk_log_f64(.leastNonzeroMagnitude) - log(Double.leastNonzeroMagnitude)) < 1e-10)
        #expect(tk_sin_f64(0) == 0 && tk_cos_f64(0) == 1)
        #expect(tk_sin_f64(.infinity).isNaN && tk_cos_f64(1e300).isNaN)
    }
}

@Suite("Conversions")
struct ConversionTests {
    /// The bits of a half as a float, from its fields; NaN becomes quiet and keeps the rest.
    static func wide(_ half: UInt16) -> UInt32 {
        let exponent = Int(half >> 10 & 31)
        let mantissa = UInt32(half & 0x3ff)
        let sign = UInt32(half >> 15) << 31
        switch (exponent, mantissa) {
        case (31, 0): return sign | Float.infinity.bitPattern
        case (31, _): return sign | 0x7fc0_0000 | mantissa << 13
        case (0, _): return sign | (Float(mantissa) * 0x1p-24).bitPattern
        default:
            let significand = 1 + Float(mantissa) / 1024
            return sign | Float(sign: .plus, exponent: exponent - 15, significand: significand).bitPattern
        }
    }

    @Test("All 65,536 halves widen as the hardware does it", arguments: availableSets)
    func widen(isa: tk_isa) {
        let halves = (0...UInt16.max).map { $0 }
        var out = [Float](repeating: 0, count: halves.count)
        tk_f16_to_f32(isa, halves, halves.count, &out)
        let wrong = halves.filter { out[Int($0)].bitPattern != Self.wide($0) }
        #expect(wrong.isEmpty)
        var back = [UInt16](repeating: 0, count: halves.count)
        tk_f32_to_f16(isa, out, out.count, &back)
        let differing = halves.filter { back[Int($0)] != $0 && !out[Int($0)].isNaN }
        #expect(differing.isEmpty)
    }

    @Test("Floats narrow to the nearest half, ties to even")
    func narrow() {
        var generator = SeededGenerator(seed: 4)
        var floats = (0..<20_000).map { _ in Float(bitPattern: UInt32.random(in: 0...UInt32.max, using: &generator)) }
        floats += generator.floats(20_000, spread: 26)
        floats += [
            0, -0.0, 65_504, 65_519.996, 65_520, -65_520, .infinity, -.infinity, .nan, 0x1p-24, 0x1p-25, 0x1.8p-25,
            0x1p-14,
        ]
        // Around every boundary between neighbouring halves.
        for half: UInt16 in 0..<0x7bff where half % 7 == 0 {
            var wide: [Float] = [0, 0]
            tk_f16_to_f32(TK_ISA_PORTABLE, [half, half + 1], 2, &wide)
            let middle = (wide[0] + wide[1]) / 2
            floats += [middle, middle.nextUp, middle.nextDown]
        }
        var expected = [UInt16](repeating: 0, count: floats.count)
        tk_f32_to_f16(TK_ISA_PORTABLE, floats, floats.count, &expected)
        for isa in vectorSets {
            var out = [UInt16](repeating: 0, count: floats.count)
            tk_f32_to_f16(isa, floats, floats.count, &out)
            #expect(out == expected, "\(name(isa))")
        }
        var back = [Float](repeating: 0, count: floats.count)
        tk_f16_to_f32(TK_ISA_PORTABLE, expected, expected.count, &back)
        let wrong = zip(floats, back).filter { x, y in
            if !x.isFinite { return false }
            if abs(x) >= 65_520 { return y != (x < 0 ? -.infinity : .infinity) }
            return abs(Double(y) - Double(x)) > max(0x1p-25, abs(Double(x)) * 0x1p-11)
        }
        #expect(wrong.isEmpty)
        #expect(back[20_000 + 20_000 + 9..<20_000 + 20_000 + 13] == [0x1p-24, 0, 0x1p-24, 0x1p-14])
    }
}
