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
        var mixture = (bytes: 0, integers: 0, floats: 0)
        var (reading, computing) = (0.0, 0.0)
        let layers = Dictionary(grouping: work.experts, by: \.layer)
        for experts in layers.values {
            let loads = shares.map { share in experts.filter { share.contains($0.expert) } }
            let bytes = loads.map { $0.reduce(0) { $0 + $1.weightBytes } }
            let integers = loads.map { $0.reduce(0) { $0 + $1.integerMultiplyAdds } }
            let floats = loads.map { $0.reduce(0) { $0 + $1.floatMultiplyAdds } }
            mixture.bytes += bytes.reduce(0, +)
            mixture.integers += integers.reduce(0, +)
            mixture.floats += floats.reduce(0, +)
            reading += Self.together(
                bytes.map { Double($0) / one.readBytes }, atOnce: all.readBytes / one.readBytes)
            computing += Self.together(
                zip(integers, floats).map { computingSeconds(integers: $0, floats: $1) },
                atOnce: all.integers / one.integers)
        }
        reading += Double(work.bytes - mixture.bytes) / one.readBytes
        computing += computingSeconds(
            integers: work.integerMultiplyAdds - mixture.integers, floats: work.floatMultiplyAdds - mixture.floats)
        return max(reading, computing)
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
