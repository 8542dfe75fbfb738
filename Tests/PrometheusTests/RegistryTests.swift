import CoreMetrics
import Prometheus
import TestSupport
import Testing

struct RegistryTests {
    private let registry = PrometheusRegistry()

    @Test func counters() {
        let sent = registry.counter("sent_total", "What was sent.", [("kind", "step")])
        sent.increment()
        sent.increment(by: 4)
        sent.increment(by: -2)
        #expect(
            registry.text == """
                # HELP sent_total What was sent.
                # TYPE sent_total counter
                sent_total{kind="step"} 5

                """)
        // Another handle for the same labels is the same series, and so is one that counts in fractions.
        Counter(label: "sent_total", dimensions: [("kind", "step")], factory: registry).increment()
        FloatingPointCounter(label: "sent_total", dimensions: [("kind", "step")], factory: registry).increment(by: 0.5)
        FloatingPointCounter(label: "sent_total", dimensions: [("kind", "step")], factory: registry).increment(by: -1.0)
        #expect(registry.text.hasSuffix("sent_total{kind=\"step\"} 6.5\n"))
        sent.reset()
        #expect(registry.text.hasSuffix("sent_total{kind=\"step\"} 0\n"))
        sent.destroy()
        #expect(registry.text.isEmpty)
    }

    /// Past 2^53 a float64 skips numbers.
    @Test func wholeCountsStayExact() {
        let bytes = registry.counter("bytes_total", "Bytes.")
        bytes.increment(by: Int64(1) << 60)
        bytes.increment()
        #expect(registry.text.hasSuffix("bytes_total 1152921504606846977\n"))
    }

    @Test func gauges() {
        let running = registry.gauge("running", "Now.")
        running.set(3)
        running.increment(by: 1.5)
        running.decrement()
        #expect(registry.text == "# HELP running Now.\n# TYPE running gauge\nrunning 3.5\n")
        Gauge(label: "running", factory: registry).record(7)
        #expect(registry.text.hasSuffix("running 7\n"))
    }

    @Test func histograms() {
        let rows = registry.histogram("rows", "Rows.", buckets: [1, 2, 4.5], [("class", "decode")])
        // A bucket includes its bound.
        for value in [1, 2, 3, 4, 5] { rows.record(value) }
        rows.record(Double.nan)
        #expect(
            registry.text == """
                # HELP rows Rows.
                # TYPE rows histogram
                rows_bucket{class="decode",le="1"} 1
                rows_bucket{class="decode",le="2"} 2
                rows_bucket{class="decode",le="4.5"} 4
                rows_bucket{class="decode",le="+Inf"} 5
                rows_sum{class="decode"} 15
                rows_count{class="decode"} 5

                """)
    }

    @Test func timesAreInSeconds() {
        let wait = registry.timer("wait_seconds", "Waiting.", buckets: [0.001, 1])
        wait.recordMilliseconds(1)
        wait.recordNanoseconds(1_500_000_000)
        wait.recordSeconds(2)
        #expect(
            registry.text == """
                # HELP wait_seconds Waiting.
                # TYPE wait_seconds histogram
                wait_seconds_bucket{le="0.001"} 1
                wait_seconds_bucket{le="1"} 1
                wait_seconds_bucket{le="+Inf"} 3
                wait_seconds_sum 3.501
                wait_seconds_count 3

                """)
    }

    /// What another library makes through swift-metrics has names and types that Prometheus takes.
    @Test func metricsThatNobodyDescribed() throws {
        Counter(label: "pool.hits", factory: registry).increment()
        Counter(label: "pool.misses_total", factory: registry).increment()
        Timer(label: "pool.wait", factory: registry).recordSeconds(2)
        Recorder(label: "pool.size", factory: registry).record(2)
        Gauge(label: "pool.load_total", dimensions: [("a-b", "c")], factory: registry).record(2)
        let types = registry.text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.map { $0.dropFirst(7) }
        #expect(
            types == [
                "pool_hits_total counter", "pool_load_total_value gauge", "pool_misses_total counter",
                "pool_size histogram", "pool_wait_seconds histogram",
            ])
        #expect(registry.text.contains("pool_load_total_value{a_b=\"c\"} 2\n"))
    }

    @Test func seriesPastTheLimitShareOne() {
        registry.declare(MetricDescription(.counter, "errors_total", "Errors.", seriesLimit: 2))
        for code in ["a", "b", "c", "d", "a"] {
            Counter(label: "errors_total", dimensions: [("code", code)], factory: registry).increment()
        }
        registry.sample(MetricDescription(.gauge, "load", "Load.", seriesLimit: 1)) {
            [(labels: [("peer", "a")], value: 1), (labels: [("peer", "b")], value: 2), ([("peer", "c")], 3)]
        }
        #expect(
            registry.text == """
                # HELP errors_total Errors.
                # TYPE errors_total counter
                errors_total{code="a"} 2
                errors_total{code="b"} 1
                errors_total{code="other"} 2
                # HELP load Load.
                # TYPE load gauge
                load{peer="a"} 1
                load{peer="other"} 5

                """)
    }

    @Test func nothingIsLostAmongThreads() async {
        let count = registry.counter("count_total", "Count.")
        let part = FloatingPointCounter(label: "part_total", factory: registry)
        let size = registry.histogram("size", "Size.", buckets: [2])
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    for value in 0..<10_000 {
                        count.increment()
                        part.increment(by: 0.5)
                        size.record(value % 4)
                    }
                }
            }
        }
        let text = registry.text
        #expect(text.contains("\ncount_total 80000\n"))
        #expect(text.contains("\npart_total 40000\n"))
        #expect(text.contains("\nsize_bucket{le=\"2\"} 60000\n"))
        #expect(text.contains("\nsize_sum 120000\n"))
        #expect(text.contains("\nsize_count 80000\n"))
    }

    @Test func promtoolAgrees() throws {
        registry.counter("odd_total", "Help with a \\ and a\nnew line.", [("v", "a\\b\"c\nd\r\n✓")]).increment()
        registry.gauge("extreme", "Numbers.", [("v", "inf")]).set(Double.infinity)
        registry.gauge("extreme", "Numbers.", [("v", "nan")]).set(Double.nan)
        registry.gauge("extreme", "Numbers.", [("v", "small")]).set(Double.leastNonzeroMagnitude)
        registry.timer("wait_seconds", "Waiting.", buckets: [0.000_01, 1e9], [("a", "b")]).recordSeconds(1)
        #expect(try Promtool.complaints(about: registry.text) == "")
        #expect(try Promtool.complaints(about: "odd{x=\"\n\"} 1\n") != "")
    }
}
