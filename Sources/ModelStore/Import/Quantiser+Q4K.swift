/// The search for a q4_K block's numbers: scales, minima and quants whose values `d·scale·quant - dmin·minimum` are
/// nearest to the weights, in mean square.
///
/// It has the stages of ggml's (`quantize_row_q4_K_ref`, `make_qkx2_quants` in ggml-quants.c): each group's own best
/// scale and minimum, then those of 6 bits. It weighs all errors alike, and goes on where that one ends: the 6-bit
/// numbers are chosen by the error that they give, the factors `d` and `dmin` fitted to them, and so on.
///
/// A lane is a group, so that no sum crosses lanes.
extension Quantiser {
    /// - Parameters:
    ///   - values: 256.
    ///   - target: the block's 144 bytes.
    /// - Returns: false where a scale is too large for float16.
    static func q4_K(_ values: UnsafeBufferPointer<Float>, into target: UnsafeMutableRawBufferPointer) -> Bool {
        withUnsafeTemporaryAllocation(of: Lanes.self, capacity: 32) { memory in
            for position in 0..<32 {
                var row = Lanes()
                for group in 0..<8 { row[group] = values[group * 32 + position] }
                memory[position] = row
            }
            let groups = Groups(UnsafeBufferPointer(memory))
            guard let block = groups.fit() else { return false }
            groups.store(block, in: target)
            return true
        }
    }

    /// A block's numbers but for the quants, which follow from them. Scales and minima are integers.
    private struct Block {
        var d: Float16
        var dmin: Float16
        var scales: Lanes
        var minima: Lanes
        /// The squares of all errors.
        var error: Float
    }

    /// The weights of a block.
    private struct Groups {
        /// By their place in the group. Sums are of `weight - low`, so that they stay exact enough where all weights of a
        /// group lie far from 0.
        let weights: UnsafeBufferPointer<Lanes>
        /// The least weight of each group, or 0.
        var low = Lanes()
        /// The greatest less the least.
        var range = Lanes()
        /// Of the weights less `low`.
        var sum = Lanes()
        var squares = Lanes()

        init(_ weights: UnsafeBufferPointer<Lanes>) {
            self.weights = weights
            var high = Lanes(repeating: -.infinity)
            for row in weights {
                low.replace(with: row, where: row .< low)
                high.replace(with: row, where: row .> high)
            }
            range = high - low
            for row in weights {
                let above = row - low
                sum += above
                squares += above * above
            }
        }

        /// Nil where a factor is too large for float16.
        func fit() -> Block? {
            // Before sums of squares that could be infinite.
            guard Float16(range.max() / (15 * 63)).isFinite else { return nil }
            let (scales, minima) = bestOfEachGroup()
            var d = Float16(scales.max() / 63)
            var dmin = Float16(minima.max() / 63)
            guard d.isFinite, dmin.isFinite else { return nil }
            // Of numbers too small even for that, the least is better than nothing.
            if d == 0, scales.max() > 0 { d = .leastNonzeroMagnitude }
            if dmin == 0, minima.max() > 0 { dmin = .leastNonzeroMagnitude }
            var start = Block(d: d, dmin: dmin, scales: Lanes(), minima: Lanes(), error: .infinity)
            if d > 0 { start.scales = clamped(nearest(scales / Float(d)), 0, 63) }
            if dmin > 0 { start.minima = clamped(nearest(minima / Float(dmin)), 0, 63) }
            var best = improved(start)
            for _ in 0..<2 {
                guard let refitted = refitted(best) else { break }
                let next = improved(refitted)
                guard next.error < best.error else { break }
                best = next
            }
            return best
        }

        /// The real numbers that suit each group best, quant = (weight + minimum) / scale. Minima are not negative.
        private func bestOfEachGroup() -> (scales: Lanes, minima: Lanes) {
            var best = Lanes(repeating: .infinity)
            var scales = Lanes()
            var minima = -low
            // Quants for `weight - low` from a factor and a shift, then the line that fits them best.
            func consider(_ factor: Lanes, _ shift: Lanes) {
                var quants = Lanes()
                var quantSquares = Lanes()
                var products = Lanes()
                for row in weights {
                    let above = row - low
                    let quant = clamped(nearest(above * factor + shift), 0, 15)
                    quants += quant
                    quantSquares += quant * quant
                    products += quant * above
                }
                let determinant: Lanes = 32 * quantSquares - quants * quants
                var scale: Lanes = (32 * products - quants * sum) / determinant
                var base: Lanes = (sum - scale * quants) / 32
                // No minimum below 0, and none where all quants are the same: they say nothing of it.
                let isBound = base .> -low .| determinant .<= 0
                base.replace(with: -low, where: isBound)
                scale.replace(with: (products - base * quants) / quantSquares, where: isBound)
                let fromScale: Lanes = scale * (scale * quantSquares + 2 * (base * quants - products))
                let fromBase: Lanes = base * (32 * base - 2 * sum)
                let error = fromScale + fromBase + squares
                let isBetter = error .< best .& (scale .> 0)
                best.replace(with: error, where: isBetter)
                scales.replace(with: scale, where: isBetter)
                minima.replace(with: -(base + low), where: isBetter)
            }
            let steps = Lanes(repeating: 1) / range.replacing(with: 1, where: range .<= 0)
            // 15 steps would reach from the least to the greatest; fewer or more may suit the weights between.
            for count in stride(from: Float(13), to: 18, by: 0.25) { consider(count * steps, Lanes()) }
            let factor = Lanes(repeating: 1) / scales.replacing(with: 1, where: scales .<= 0)
            consider(factor, (minima + low) * factor)
            return (scales, minima)
        }

        /// With the same factors, the best scale of three and the best minimum of two for each group.
        private func improved(_ block: Block) -> Block {
            let d = Float(block.d)
            let dmin = Float(block.dmin)
            var best = Lanes(repeating: .infinity)
            var result = block
            for step in [Float(0), -1, 1] {
                let scales = clamped(block.scales + step, 0, 63)
                let scale = scales * d
                let factor = Self.inverse(scale)
                var minima = block.minima
                for _ in 0..<2 {
                    let minimum = minima * dmin
                    var quants = Lanes()
                    var error = Lanes()
                    for row in weights {
                        let quant = clamped(nearest((row + minimum) * factor), 0, 15)
                        let off = quant * scale - minimum - row
                        quants += quant
                        error += off * off
                    }
                    let isBetter = error .< best
                    best.replace(with: error, where: isBetter)
                    result.scales.replace(with: scales, where: isBetter)
                    result.minima.replace(with: minima, where: isBetter)
                    guard dmin > 0 else { break }
                    // What these quants would have as their minimum.
                    minima = clamped(nearest((scale * quants - sum - 32 * low) / (32 * dmin)), 0, 63)
                }
            }
            result.error = best.sum()
            return result
        }

        /// The factors that fit scales, minima and quants best, by least squares; nil where they are none.
        private func refitted(_ block: Block) -> Block? {
            let minimum = block.minima * Float(block.dmin)
            let factor = Self.inverse(block.scales * Float(block.d))
            var quants = Lanes()
            var squares = Lanes()
            var products = Lanes()
            for row in weights {
                let quant = clamped(nearest((row + minimum) * factor), 0, 15)
                quants += quant
                squares += quant * quant
                products += quant * row
            }
            let (scales, minima) = (block.scales, block.minima)
            let a = (scales * scales * squares).sum()
            let b = (scales * minima * quants).sum()
            let c = (minima * minima).sum() * 32
            let right = (scales * products).sum()
            let left = (minima * (sum + 32 * low)).sum()
            var result = block
            if c == 0 {
                result.d = Float16(right / a)
            } else {
                let determinant = a * c - b * b
                result.d = Float16((right * c - b * left) / determinant)
                result.dmin = Float16((right * b - a * left) / determinant)
            }
            return result.d.isFinite && result.dmin.isFinite && result.d > 0 && result.dmin >= 0 ? result : nil
        }

        /// 0 for 0.
        private static func inverse(_ values: Lanes) -> Lanes {
            (Lanes(repeating: 1) / values).replacing(with: 0, where: values .<= 0)
        }

        /// block_q4_K: d, dmin, scales[12], qs[128].
        func store(_ block: Block, in target: UnsafeMutableRawBufferPointer) {
            target.storeBytes(of: block.d.bitPattern, as: UInt16.self)
            target.storeBytes(of: block.dmin.bitPattern, toByteOffset: 2, as: UInt16.self)
            GroupScales(
                scales: SIMD8<UInt8>(truncatingIfNeeded: integers(block.scales)),
                minima: SIMD8<UInt8>(truncatingIfNeeded: integers(block.minima))
            ).store(in: UnsafeMutableRawBufferPointer(rebasing: target[4..<16]))
            let minimum = block.minima * Float(block.dmin)
            let factor = Self.inverse(block.scales * Float(block.d))
            for (position, row) in weights.enumerated() {
                let quants = integers(clamped(nearest((row + minimum) * factor), 0, 15))
                for pair in 0..<4 {
                    target[16 + pair * 32 + position] = UInt8(
                        truncatingIfNeeded: quants[2 * pair] | quants[2 * pair + 1] << 4)
                }
            }
        }
    }
}
