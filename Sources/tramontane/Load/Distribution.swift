/// Samples, all of them, and what is usually said of them.
struct Distribution {
    let sorted: [Double]
    let mean: Double

    init(_ samples: [Double]) {
        sorted = samples.sorted()
        mean = samples.isEmpty ? .nan : samples.reduce(0, +) / Double(samples.count)
    }

    var isEmpty: Bool { sorted.isEmpty }
    var max: Double { sorted.last ?? .nan }

    /// Between the two nearest samples in proportion, as numpy does it.
    func percentile(_ percent: Double) -> Double {
        guard !sorted.isEmpty else { return .nan }
        let place = percent / 100 * Double(sorted.count - 1)
        let below = Int(place.rounded(.down))
        let above = Swift.min(below + 1, sorted.count - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
    }

    var standardDeviation: Double {
        guard !sorted.isEmpty else { return .nan }
        return (sorted.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(sorted.count)).squareRoot()
    }

    static let percentiles: [Double] = [50, 90, 95, 99]

    /// For a table: mean, the percentiles, the largest.
    var cells: [String] {
        ([mean] + Self.percentiles.map(percentile) + [max]).map { Figure.fixed($0, 3) }
    }

    static let headings = ["MEAN", "P50", "P90", "P95", "P99", "MAX"]
}

extension JSONLine.Object {
    /// `mean_NAME`, `median_NAME`, `std_NAME`, `p50_NAME` and so on; nothing where there are no samples.
    mutating func distribution(_ name: String, _ distribution: Distribution) {
        guard !distribution.isEmpty else { return }
        rounded("mean_\(name)", distribution.mean, digits: 4)
        rounded("median_\(name)", distribution.percentile(50), digits: 4)
        rounded("std_\(name)", distribution.standardDeviation, digits: 4)
        for percent in Distribution.percentiles {
            rounded("p\(Int(percent))_\(name)", distribution.percentile(percent), digits: 4)
        }
        rounded("max_\(name)", distribution.max, digits: 4)
    }
}
