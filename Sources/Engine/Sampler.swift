import CKernels

/// Chooses the next token. A function of its arguments alone, the draw included: from token to token it keeps its memory and
/// nothing in it.
package struct Sampler {
    private var order = LogitOrder()
    /// Tokens that are in the draw, best first, where those are not all.
    private var chosen: [Int] = []
    /// Logits of the best tokens, then their probabilities.
    private var values: [Float] = []

    package init() {}

    /// - Parameters:
    ///   - logits: one for each token; changed.
    ///   - position: in its sequence, of the token that is drawn.
    /// - Returns: nil when a logit is NaN or infinitely large, or all are infinitely small: the request fails then.
    package mutating func sample(
        logits: UnsafeMutableBufferPointer<Float>, parameters: SamplingParameters, position: Int
    ) -> Int32? {
        for (token, bias) in parameters.logitBias { Self.add(bias, to: token, in: logits) }
        guard let best = Self.best(of: logits) else { return nil }
        guard parameters.temperature > 0 else { return Int32(truncatingIfNeeded: best) }

        order.begin(UnsafeBufferPointer(logits))
        Self.scale(logits, best: logits[best], temperature: parameters.temperature)
        let uniform = Philox.uniform(seed: parameters.seed, choice: parameters.choice, position: position)
        var nucleus = Nucleus(parameters)
        chosen.removeAll(keepingCapacity: true)
        if parameters.topK > 0, parameters.topK < logits.count {
            while chosen.count < parameters.topK, let token = order.next() { chosen.append(token) }
            softmaxOfChosen(in: logits)
            let end = chosen.firstIndex { !nucleus.takes(logits[$0]) } ?? chosen.count
            chosen.removeSubrange(end...)
        } else {
            if let base = logits.baseAddress { tk_softmax(Kernels.isa, base, logits.count) }
            guard parameters.topP < 1 || parameters.minP > 0 else {
                let mass = logits.reduce(0.0) { $0 + Double($1) }
                return Int32(truncatingIfNeeded: Self.draw(uniform * mass, from: &order, logits) ?? best)
            }
            while let token = order.next(), nucleus.takes(logits[token]) { chosen.append(token) }
        }
        let mass = chosen.reduce(0.0) { $0 + Double(logits[$1]) }
        var ranked = chosen.makeIterator()
        return Int32(truncatingIfNeeded: Self.draw(uniform * mass, from: &ranked, logits) ?? best)
    }

    /// Adds to a token's logit, where there is such a token.
    package static func add(_ bias: Float, to token: Int32, in logits: UnsafeMutableBufferPointer<Float>) {
        if logits.indices.contains(Int(token)) { logits[Int(token)] += bias }
    }

    /// The tokens, best first, that top-p and min-p leave; at least one.
    private struct Nucleus {
        private let topP: Float
        private let minP: Float
        private var best: Float?
        private var mass = 0.0

        init(_ parameters: SamplingParameters) {
            topP = parameters.topP
            minP = parameters.minP
        }

        /// Whether the next token of the ranking stays in the draw.
        mutating func takes(_ probability: Float) -> Bool {
            if let best {
                let isFull = topP < 1 && mass >= Double(topP)
                if isFull || probability < minP * best { return false }
            }
            best = best ?? probability
            mass += Double(probability)
            return true
        }
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

    /// The softmax over the chosen tokens, in their order, written to their places.
    private mutating func softmaxOfChosen(in logits: UnsafeMutableBufferPointer<Float>) {
        values.removeAll(keepingCapacity: true)
        for token in chosen { values.append(logits[token]) }
        tk_softmax(Kernels.isa, &values, values.count)
        for (token, probability) in zip(chosen, values) { logits[token] = probability }
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
