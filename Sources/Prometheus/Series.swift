import CoreMetrics
import Synchronization

/// One line, or one histogram, of a family. Events change it without a lock and without an allocation.
protocol Series: AnyObject, Sendable {
    init(_ kind: MetricDescription.Kind)
    func write(_ name: String, _ labels: String, into text: inout String)
}

/// Whole amounts are kept apart from others, so that they stay exact.
final class CounterSeries: Series, CounterHandler, FloatingPointCounterHandler {
    private let whole = Atomic<UInt64>(0)
    private let rest = Atomic<Double>(0)

    init(_ kind: MetricDescription.Kind) {}

    /// A counter only goes up.
    func increment(by amount: Int64) {
        guard amount > 0 else { return }
        whole.wrappingAdd(UInt64(amount), ordering: .relaxed)
    }

    func increment(by amount: Double) {
        guard amount > 0, amount.isFinite else { return }
        rest.add(amount)
    }

    func reset() {
        whole.store(0, ordering: .relaxed)
        rest.store(0, ordering: .relaxed)
    }

    func write(_ name: String, _ labels: String, into text: inout String) {
        let (whole, rest) = (whole.load(ordering: .relaxed), rest.load(ordering: .relaxed))
        let value = rest == 0 ? "\(whole)" : TextFormat.number(Double(whole) + rest)
        TextFormat.writeLine(name, labels, value, into: &text)
    }
}

final class GaugeSeries: Series, MeterHandler, RecorderHandler {
    private let value = Atomic<Double>(0)

    init(_ kind: MetricDescription.Kind) {}

    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { self.value.store(value, ordering: .relaxed) }
    func increment(by amount: Double) { value.add(amount) }
    func decrement(by amount: Double) { value.add(-amount) }
    func record(_ value: Int64) { set(value) }
    func record(_ value: Double) { set(value) }

    func write(_ name: String, _ labels: String, into text: inout String) {
        TextFormat.writeLine(name, labels, TextFormat.number(value.load(ordering: .relaxed)), into: &text)
    }
}

final class HistogramSeries: Series, RecorderHandler, TimerHandler {
    private final class Bucket: Sendable {
        let count = Atomic<UInt64>(0)
    }

    private let bounds: [Double]
    /// One for each bound, and one for what is above all.
    private let buckets: [Bucket]
    private let sum = Atomic<Double>(0)

    init(_ kind: MetricDescription.Kind) {
        bounds = if case .histogram(let buckets) = kind { buckets } else { [] }
        buckets = (0...bounds.count).map { _ in Bucket() }
    }

    func record(_ value: Int64) { record(Double(value)) }

    func record(_ value: Double) {
        guard !value.isNaN else { return }
        var index = 0
        while index < bounds.count, value > bounds[index] { index += 1 }
        buckets[index].count.wrappingAdd(1, ordering: .relaxed)
        sum.add(value)
    }

    /// Prometheus counts time in seconds.
    func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }

    /// The count is that of the buckets read here. The sum may be ahead or behind by what is recorded at this moment.
    func write(_ name: String, _ labels: String, into text: inout String) {
        var count: UInt64 = 0
        for (bound, bucket) in zip(bounds + [.infinity], buckets) {
            count &+= bucket.count.load(ordering: .relaxed)
            let place = "le=\"\(TextFormat.number(bound))\""
            TextFormat.writeLine(
                name + "_bucket", labels.isEmpty ? place : "\(labels),\(place)", "\(count)", into: &text)
        }
        TextFormat.writeLine(name + "_sum", labels, TextFormat.number(sum.load(ordering: .relaxed)), into: &text)
        TextFormat.writeLine(name + "_count", labels, "\(count)", into: &text)
    }
}

extension Atomic<Double> {
    func add(_ amount: Double) {
        var old = load(ordering: .relaxed)
        while true {
            let (isDone, found) = weakCompareExchange(expected: old, desired: old + amount, ordering: .relaxed)
            if isDone { return }
            old = found
        }
    }
}
