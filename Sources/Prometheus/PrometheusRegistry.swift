package import CoreMetrics
import Synchronization

/// The metrics of one process or daemon: a backend of swift-metrics that keeps what it is told and shows it as Prometheus
/// reads it.
///
/// swift-metrics has no help texts and no buckets, so metrics are described first, with ``declare(_:)`` or by the methods that
/// make them. What another library makes without a description gets its label as help, and Prometheus's own buckets.
package final class PrometheusRegistry: MetricsFactory {
    /// Labels and the value that a series has at this moment.
    package typealias Sample = (labels: [(String, String)], value: Double)

    /// For times that nobody described, in seconds.
    package static let defaultBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

    private struct Family {
        let description: MetricDescription
        /// By their labels.
        var series: [String: any Series] = [:]
        /// Where the values are kept elsewhere.
        var samples: (@Sendable () -> [Sample])?
    }

    private let families = Mutex<[String: Family]>([:])

    package init() {}

    // MARK: Descriptions

    /// Says what the metric of a name is. Saying the same again changes nothing.
    /// - Precondition: nobody said otherwise before.
    package func declare(_ description: MetricDescription) {
        families.withLock { families in
            let old = families[description.name]
            precondition(
                old.map { $0.description == description } ?? true,
                "metric \(description.name): it was described otherwise")
            if old == nil { families[description.name] = Family(description: description) }
        }
    }

    /// A family whose values are read when they are asked for: counters and gauges that somebody keeps anyway.
    package func sample(_ description: MetricDescription, _ read: @escaping @Sendable () -> [Sample]) {
        declare(description)
        families.withLock { $0[description.name]?.samples = read }
    }

    package func counter(_ name: String, _ help: String, _ dimensions: [(String, String)] = []) -> Counter {
        declare(MetricDescription(.counter, name, help))
        return Counter(label: name, dimensions: dimensions, factory: self)
    }

    package func gauge(_ name: String, _ help: String, _ dimensions: [(String, String)] = []) -> Meter {
        declare(MetricDescription(.gauge, name, help))
        return Meter(label: name, dimensions: dimensions, factory: self)
    }

    package func histogram(
        _ name: String, _ help: String, buckets: [Double], _ dimensions: [(String, String)] = []
    ) -> Recorder {
        declare(MetricDescription(.histogram(buckets: buckets), name, help))
        return Recorder(label: name, dimensions: dimensions, factory: self)
    }

    /// - Parameter buckets: in seconds, as the name ends.
    package func timer(
        _ name: String, _ help: String, buckets: [Double], _ dimensions: [(String, String)] = []
    ) -> Timer {
        declare(MetricDescription(.histogram(buckets: buckets), name, help))
        return Timer(label: name, dimensions: dimensions, factory: self)
    }

    // MARK: Showing

    /// Everything that is described, in order of name.
    package var descriptions: [MetricDescription] {
        families.withLock { $0.values.map(\.description) }.sorted { $0.name < $1.name }
    }

    /// All series in the text format. Families without one are left out.
    package var text: String {
        // What is sampled takes locks of its own.
        let families = families.withLock { $0.sorted { $0.key < $1.key }.map(\.value) }
        var text = ""
        for family in families {
            let description = family.description
            if let samples = family.samples {
                write(samples(), of: description, into: &text)
            } else if !family.series.isEmpty {
                TextFormat.writeHead(description, into: &text)
                for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) {
                    series.write(description.name, labels, into: &text)
                }
            }
        }
        return text
    }

    private func write(_ samples: [Sample], of description: MetricDescription, into text: inout String) {
        guard !samples.isEmpty else { return }
        TextFormat.writeHead(description, into: &text)
        var values: [String: Double] = [:]
        for sample in samples {
            var labels = TextFormat.labels(sample.labels, isHistogram: false)
            if values[labels] == nil, values.count >= description.seriesLimit { labels = Self.others(sample.labels) }
            values[labels, default: 0] += sample.value
        }
        for (labels, value) in values.sorted(by: { $0.key < $1.key }) {
            TextFormat.writeLine(description.name, labels, TextFormat.number(value), into: &text)
        }
    }

    private static func others(_ dimensions: [(String, String)], isHistogram: Bool = false) -> String {
        TextFormat.labels(dimensions.map { ($0.0, "other") }, isHistogram: isHistogram)
    }

    // MARK: swift-metrics

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        series(CounterSeries.self, .counter, label, dimensions, suffix: "_total")
    }

    package func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        series(CounterSeries.self, .counter, label, dimensions, suffix: "_total")
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        series(GaugeSeries.self, .gauge, label, dimensions)
    }

    package func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        guard aggregate else { return series(GaugeSeries.self, .gauge, label, dimensions) }
        return series(HistogramSeries.self, .histogram(buckets: Self.defaultBuckets), label, dimensions)
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        series(HistogramSeries.self, .histogram(buckets: Self.defaultBuckets), label, dimensions, suffix: "_seconds")
    }

    package func destroyCounter(_ handler: any CounterHandler) { remove(handler) }
    package func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { remove(handler) }
    package func destroyMeter(_ handler: any MeterHandler) { remove(handler) }
    package func destroyRecorder(_ handler: any RecorderHandler) { remove(handler) }
    package func destroyTimer(_ handler: any TimerHandler) { remove(handler) }

    /// The series of a label and its dimensions: the same one for the same.
    ///
    /// - Parameters:
    ///   - kind: what it is where nobody described it
    ///   - suffix: what its name ends in then
    private func series<Kind: Series>(
        _ type: Kind.Type, _ kind: MetricDescription.Kind, _ label: String, _ dimensions: [(String, String)],
        suffix: String = ""
    ) -> Kind {
        families.withLock { families in
            var name = label
            if families[name] == nil {
                name = TextFormat.metricName(label)
                if !name.hasSuffix(suffix) { name += suffix }
                if suffix != "_total", name.hasSuffix("_total") { name += "_value" }
            }
            var family = families[name] ?? Family(description: MetricDescription(kind, name, label))
            precondition(
                family.description.kind.name == kind.name && family.samples == nil,
                "metric \(name): it is no \(kind.name)")
            let isHistogram = kind.name == "histogram"
            var labels = TextFormat.labels(dimensions, isHistogram: isHistogram)
            if family.series[labels] == nil, family.series.count >= family.description.seriesLimit {
                labels = Self.others(dimensions, isHistogram: isHistogram)
            }
            if let known = family.series[labels] as? Kind { return known }
            let new = Kind(family.description.kind)
            family.series[labels] = new
            families[name] = family
            return new
        }
    }

    private func remove(_ handler: AnyObject) {
        families.withLock { families in
            for (name, family) in families {
                if let labels = family.series.first(where: { $0.value === handler })?.key {
                    families[name]?.series[labels] = nil
                    return
                }
            }
        }
    }
}
