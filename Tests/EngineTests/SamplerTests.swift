import Engine
import TestSupport
import Testing

@Suite struct SamplerTests {
    private func sample(_ logits: [Float], _ parameters: SamplingParameters, position: Int = 0) -> Int32? {
        var logits = logits
        var sampler = Sampler()
        return logits.withUnsafeMutableBufferPointer {
            sampler.sample(logits: $0, parameters: parameters, position: position)
        }
    }

    /// How often each token is drawn over many positions.
    private func shares(_ logits: [Float], _ parameters: SamplingParameters, draws: Int = 20_000) -> [Double] {
        var counts = [Double](repeating: 0, count: logits.count)
        for position in 0..<draws {
            if let token = sample(logits, parameters, position: position) { counts[Int(token)] += 1 }
        }
        return counts.map { $0 / Double(draws) }
    }

    @Test func greedyTakesTheLowestOfEquals() {
        #expect(sample([1, 3, 3, 2], .greedy) == 1)
        #expect(sample([-.infinity, -2, -2], .greedy) == 1)
        #expect(sample([-0.0, 0], .greedy) == 0)
        #expect(sample([1, 3], SamplingParameters(temperature: .nan)) == 1)
        #expect(sample([1, 3], SamplingParameters(temperature: -1)) == 1)
    }

    /// Long rows are looked through in vectors: whatever stands in one, or behind the last, counts as in a short row.
    @Test func greedyLooksThroughLongRows() {
        for count in [15, 16, 17, 64, 70] {
            for place in 0..<count {
                var logits = [Float](repeating: -2, count: count)
                logits[place] = 5
                #expect(sample(logits, .greedy) == Int32(place), "\(count)")
                logits[count - 1] = 5
                #expect(sample(logits, .greedy) == Int32(place), "\(count)")
                logits[place] = .nan
                #expect(sample(logits, .greedy) == nil, "\(count)")
                logits[place] = .infinity
                #expect(sample(logits, .greedy) == nil, "\(count)")
            }
            #expect(sample([Float](repeating: -.infinity, count: count), .greedy) == nil)
        }
    }

    @Test func drawsFollowTheDistribution() {
        let seed: UInt64 = 41
        let logits: [Float] = [1, 0, 2, -1, 0.5]
        for temperature in [Float(0.5), 1, 3] {
            let found = shares(logits, SamplingParameters(temperature: temperature, seed: seed))
            let weights = logits.map { Double(2.718281828459045.power(Double($0 / temperature))) }
            for (share, weight) in zip(found, weights) {
                let expected = weight / weights.reduce(0, +)
                // Five standard deviations.
                let slack = 5 * (expected * (1 - expected) / 20_000).squareRoot()
                #expect(abs(share - expected) < slack, "seed \(seed), temperature \(temperature)")
            }
        }
    }

    @Test func topKKeepsTheBestAndTheLowerIdOfEquals() {
        let logits: [Float] = [1, 2, 2, 2, 0]
        let found = shares(logits, SamplingParameters(topK: 2, seed: 3), draws: 4000)
        #expect(found[0] == 0 && found[3] == 0 && found[4] == 0)
        #expect(abs(found[1] - 0.5) < 0.05 && abs(found[2] - 0.5) < 0.05)
        #expect(shares(logits, SamplingParameters(topK: 1, seed: 3), draws: 50)[1] == 1)
        #expect(
            sample(logits, SamplingParameters(topK: 99, seed: 3))
                == sample(logits, SamplingParameters(topK: 0, seed: 3)))
        #expect(sample(logits, SamplingParameters(topK: -5, seed: 3)) == sample(logits, SamplingParameters(seed: 3)))
    }

    @Test func topPKeepsTheSmallestPrefixThatReachesIt() {
        // Probabilities 1/2, 1/4, 1/8, 1/8: sums of powers of two are exact.
        let logits: [Float] = [0, 1, 2, 0].map { $0 * 0.6931471805599453 }
        #expect(shares(logits, SamplingParameters(topP: 0.49, seed: 7), draws: 200)[2] == 1)
        let two = shares(logits, SamplingParameters(topP: 0.7, seed: 7), draws: 4000)
        #expect(two[0] == 0 && two[3] == 0 && two[1] > 0.25)
        let three = shares(logits, SamplingParameters(topP: 0.8, seed: 7), draws: 4000)
        #expect(three[0] > 0 && three[3] == 0)
        #expect(shares(logits, SamplingParameters(topP: 0, seed: 7), draws: 50)[2] == 1)
        #expect(shares(logits, SamplingParameters(topP: 1, seed: 7), draws: 4000).allSatisfy { $0 > 0 })
    }

    @Test func minPIsAShareOfTheBest() {
        let logits: [Float] = [0, 1, 2, 0].map { $0 * 0.6931471805599453 }
        let two = shares(logits, SamplingParameters(minP: 0.4, seed: 7), draws: 2000)
        #expect(two[0] == 0 && two[3] == 0 && two[1] > 0.2)
        #expect(shares(logits, SamplingParameters(minP: 2, seed: 7), draws: 50)[2] == 1)
        #expect(shares(logits, SamplingParameters(minP: 0.2, seed: 7), draws: 2000).allSatisfy { $0 > 0 })
    }

    @Test func biasComesBeforeEverything() {
        #expect(sample([1, 2], SamplingParameters(temperature: 0, logitBias: [(0, 5), (77, 1), (-3, 1)])) == 0)
        #expect(shares([1, 2], SamplingParameters(seed: 1, logitBias: [(1, -.infinity)]), draws: 50)[0] == 1)
    }

    @Test func senselessLogitsGiveNothing() {
        #expect(sample([1, .nan], .greedy) == nil)
        #expect(sample([1, .infinity], SamplingParameters()) == nil)
        #expect(sample([-.infinity, -.infinity], SamplingParameters()) == nil)
        #expect(sample([], SamplingParameters()) == nil)
        #expect(sample([1, 2], SamplingParameters(logitBias: [(0, .nan)])) == nil)
    }

    /// Whatever the numbers, a token of the vocabulary with a finite logit comes out, and the same one again.
    @Test func anyParametersAndLogitsAreSurvived() {
        let seed: UInt64 = 20_261
        var random = SeededGenerator(seed: seed)
        let odd: [Float] = [0, -0.0, 1, 1e-38, 1e38, -1e38, .infinity, -.infinity, .nan, .leastNonzeroMagnitude]
        for round in 0..<2000 {
            let count = Int.random(in: 1...40, using: &random)
            let logits = (0..<count).map { _ in
                Int.random(in: 0..<8, using: &random) == 0
                    ? -Float.greatestFiniteMagnitude : Float.random(in: -30...30, using: &random)
            }
            let parameters = SamplingParameters(
                temperature: odd.randomElement(using: &random) ?? 1, topK: Int.random(in: -1...50, using: &random),
                topP: odd.randomElement(using: &random) ?? 1, minP: odd.randomElement(using: &random) ?? 0,
                seed: random.next())
            let token = sample(logits, parameters, position: round)
            #expect(token.map { logits.indices.contains(Int($0)) } == true, "seed \(seed), round \(round)")
            #expect(token == sample(logits, parameters, position: round), "seed \(seed), round \(round)")
        }
    }
}

extension Double {
    fileprivate func power(_ exponent: Double) -> Double {
        // exp by its series: the tests need no more than a few digits, and no C library.
        var (term, sum) = (1.0, 1.0)
        for n in 1..<60 {
            term *= exponent / Double(n)
            sum += term
        }
        return sum
    }
}
