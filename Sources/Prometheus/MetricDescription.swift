/// What a metric is called, what it means and how it is shown. A family of series shares one.
package struct MetricDescription: Sendable, Equatable {
    package enum Kind: Sendable, Equatable {
        case counter
        case gauge
        /// Upper bounds, ascending, of buckets that include theirs; one for everything above is added.
        case histogram(buckets: [Double])

        /// As the TYPE line says it.
        var name: String {
            switch self {
            case .counter: "counter"
            case .gauge: "gauge"
            case .histogram: "histogram"
            }
        }
    }

    package let name: String
    package let help: String
    package let kind: Kind
    /// Most series of the family. Whatever has other labels then counts in one more series, whose labels all say `other`:
    /// label values that come from outside do not make memory or scrapes grow.
    package let seriesLimit: Int

    /// - Precondition: the name is one that Prometheus takes, a counter's ends in `_total` and no other's does; bounds are
    ///   numbers and ascend.
    package init(_ kind: Kind, _ name: String, _ help: String, seriesLimit: Int = 4096) {
        precondition(TextFormat.isName(name), "metric \(name): the name is not valid")
        precondition(name.hasSuffix("_total") == (kind == .counter), "metric \(name): counters alone end in _total")
        if case .histogram(let buckets) = kind {
            let ascend = zip(buckets, buckets.dropFirst()).allSatisfy { $0 < $1 }
            precondition(ascend && buckets.allSatisfy(\.isFinite), "metric \(name): the buckets do not ascend")
        }
        self.kind = kind
        self.name = name
        self.help = help
        self.seriesLimit = seriesLimit
    }
}
