import CKernels

/// Chooses the next token. A function of its arguments alone, the draw included: nothing is kept from token to token.
package enum Sampler {
    /// - Parameters:
    ///   - logits: one for each token; changed.
    ///   - position: in its sequence, of the token that is drawn.
    /// - Returns: nil when a logit is NaN or infinitely large, or all are infinitely small: the request fails then.
    package static func sample(
        logits: UnsafeMutableBufferPointer<Float>, parameters: SamplingParameters, position: Int
    ) -> Int32? {
        for (token, bias) in parameters.logitBias where logits.indices.contains(Int(token)) {
            logits[Int(token)] += bias
        }
        guard let best = best(of: logits) else { return nil }
        guard parameters.temperature > 0 else { return Int32(truncatingIfNeeded: best) }

        var order = LogitOrder(UnsafeBufferPointer(logits))
        scale(logits, best: logits[best], temperature: parameters.temperature)
        let uniform = Philox.uniform(seed: parameters.seed, choice: parameters.choice, position: position)
        var candidates: [Int]?
        if parameters.topK > 0, parameters.topK < logits.count {
            var chosen: [Int] = []
            while chosen.count < parameters.topK, let token = order.next() { chosen.append(token) }
            softmax(of: chosen, in: logits)
            var ranked = chosen.makeIterator()
            candidates = cut(&ranked, logits, parameters)
        } else {
            if let base = logits.baseAddress { tk_softmax(Kernels.isa, base, logits.count) }
            if parameters.topP < 1 || parameters.minP > 0 { candidates = cut(&order, logits, parameters) }
        }
        let drawn: Int
        if let candidates {
            let mass = candidates.reduce(0.0) { $0 + Double(logits[$1]) }
            var ranked = candidates.makeIterator()
            drawn = draw(uniform * mass, from: &ranked, logits) ?? best
        } else {
            let mass = logits.reduce(0.0) { $0 + Double($1) }
            drawn = draw(uniform * mass, from: &order, logits) ?? best
        }
        return Int32(truncatingIfNeeded: drawn)
    }

    /// The highest logit's place, the first of equals; nil where a logit makes no sense.
    private static func best(of logits: UnsafeMutableBufferPointer<Float>) -> Int? {
        var highest = -Float.infinity
        var index = 0
        if let base = logits.baseAddress {
            typealias Lanes = SIMD16<Float>
            var most = Lanes(repeating: highest)
            while index + Lanes.scalarCount <= logits.count {
                let lanes = UnsafeRawPointer(base + index).loadUnaligned(as: Lanes.self)
                guard all(lanes .< .infinity) else { return nil }
                most.replace(with: lanes, where: lanes .> most)
                index += Lanes.scalarCount
            }
            highest = most.max()
        }
        for logit in logits[index...] {
            guard logit < .infinity else { return nil }
            highest = max(highest, logit)
        }
        return highest > -.infinity ? logits.firstIndex(of: highest) : nil
    }

    /// (logit - best) / temperature. The best is taken off first, so that no temperature makes a logit overflow; where an
    /// infinite temperature meets an infinitely small logit, the logit wins.
    private static func scale(_ logits: UnsafeMutableBufferPointer<Float>, best: Float, temperature: Float) {
        for index in logits.indices {
            let scaled = (logits[index] - best) / temperature
            logits[index] = scaled.isNaN ? -.infinity : scaled
        }
    }

    /// The softmax over some tokens, in their order, written to their places.
    private static func softmax(of tokens: [Int], in logits: UnsafeMutableBufferPointer<Float>) {
        var values = tokens.map { logits[$0] }
        tk_softmax(Kernels.isa, &values, values.count)
        for (token, probability) in zip(tokens, values) { logits[token] = probability }
    }

    /// The tokens, best first, that top-p and min-p leave; at least one.
    private static func cut(
        _ ranked: inout some IteratorProtocol<Int>, _ probabilities: UnsafeMutableBufferPointer<Float>,
        _ parameters: SamplingParameters
    ) -> [Int] {
        var kept: [Int] = []
        var mass = 0.0
        while let token = ranked.next() {
            let probability = probabilities[token]
            if let first = kept.first, probability < parameters.minP * probabilities[first] { break }
            kept.append(token)
            mass += Double(probability)
            if mass >= Double(parameters.topP), parameters.topP < 1 { break }
        }
        return kept
    }

    /// Walks down the ranking until `share` of its mass is used up. What rounding leaves at the end belongs to the last token
    /// that has a chance at all.
    private static func draw(
        _ share: Double, from ranked: inout some IteratorProtocol<Int>,
        _ probabilities: UnsafeMutableBufferPointer<Float>
    ) -> Int? {
        var rest = share
        var last: Int?
        while let token = ranked.next(), probabilities[token] > 0 {
            last = token
            rest -= Double(probabilities[token])
            if rest < 0 { break }
        }
        return last
    }
}
