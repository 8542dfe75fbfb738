import Engine

/// The least that a step of one lane takes through workers of one stage. The first one, the lane's home, reads and computes all
/// but the experts, and the others wait for it; a layer's experts are read and computed side by side by those that hold them,
/// and the slowest is waited for. A worker alone gets what its own threads can have, and all together what the machine has.
///
/// It holds where a step's rows go through a layer together, as those of a decode step do.
struct ClusterFloor {
    /// By worker, its experts.
    let shares: [[Int]]
    /// Of one worker's threads.
    let one: BenchRates
    /// Of all workers' threads.
    let all: BenchRates

    func seconds(_ work: StepWork) -> Double {
        let reading = seconds(
            whole: Double(work.bytes) / one.readBytes, experts: work.experts, atOnce: all.readBytes / one.readBytes
        ) { Double($0.weightBytes) / one.readBytes }
        let computing = seconds(
            whole: computingSeconds(integers: work.integerMultiplyAdds, floats: work.floatMultiplyAdds),
            experts: work.experts, atOnce: all.integers / one.integers
        ) { computingSeconds(integers: $0.integerMultiplyAdds, floats: $0.floatMultiplyAdds) }
        return max(reading, computing)
    }

    /// - Parameters:
    ///   - whole: what one worker would take for the whole step.
    ///   - atOnce: how many workers the machine serves at once at that rate.
    ///   - alone: what one would take for an expert.
    private func seconds(
        whole: Double, experts: [ExpertWork], atOnce: Double, alone: (ExpertWork) -> Double
    ) -> Double {
        let home = whole - experts.reduce(0) { $0 + alone($1) }
        return Dictionary(grouping: experts, by: \.layer).values.reduce(home) { sum, experts in
            let loads = shares.map { share in
                experts.reduce(0) { $0 + (share.contains($1.expert) ? alone($1) : 0) }
            }
            return sum + Self.together(loads, atOnce: atOnce)
        }
    }

    private func computingSeconds(integers: Int, floats: Int) -> Double {
        Double(integers) / one.integers + Double(floats) / one.floats
    }

    /// The time of loads that begin together.
    ///
    /// - Parameters:
    ///   - loads: what each would take alone.
    ///   - atOnce: how many of them the machine does at once at that rate; more share it.
    static func together(_ loads: [Double], atOnce: Double) -> Double {
        var (time, done) = (0.0, 0.0)
        for (index, load) in loads.sorted().enumerated() {
            let working = Double(loads.count - index)
            time += (load - done) * working / min(working, max(atOnce, 1))
            done = load
        }
        return time
    }
}
