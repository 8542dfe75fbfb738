import Testing

@testable import Prometheus

struct TextFormatTests {
    @Test func names() {
        for name in ["a", "_", "a:b", "tramontane_rows_total", "A9"] { #expect(TextFormat.isName(name)) }
        for name in ["", "9a", "a-b", "a.b", "é", "a b"] { #expect(!TextFormat.isName(name)) }
        #expect(TextFormat.metricName("http.server-requests") == "http_server_requests")
        #expect(TextFormat.metricName("9lives") == "_9lives")
        #expect(TextFormat.metricName("é.x") == "__x")
        #expect(TextFormat.metricName("") == "_")
    }

    @Test func labelsAreSortedAndEscaped() {
        func labels(_ dimensions: [(String, String)]) -> String {
            TextFormat.labels(dimensions, isHistogram: false)
        }
        #expect(labels([]) == "")
        #expect(labels([("b", "2"), ("a", "1")]) == #"a="1",b="2""#)
        #expect(labels([("a", "back\\slash \"quote\"\nline")]) == #"a="back\\slash \"quote\"\nline""#)
        #expect(labels([("a", "ü ✓\t")]) == "a=\"ü ✓\t\"")
        #expect(labels([("a", "1"), ("a", "2")]) == #"a="2""#)
        #expect(labels([("some.name", "x"), ("__secret", "y"), ("9", "z")]) == #"_9="z",_secret="y",some_name="x""#)
        // A scalar that Swift joins with the one before it is one of its own here.
        #expect(labels([("a", "\r\n")]) == "a=\"\r\\n\"")
        #expect(labels([("le", "x")]) == #"le="x""#)
        #expect(TextFormat.labels([("le", "x")], isHistogram: true) == #"_le="x""#)
        #expect(labels([("a", String(repeating: "x", count: 1000))]).count == TextFormat.valueLimit + 4)
    }

    @Test func helpKeepsItsQuotes() {
        #expect(TextFormat.escapedHelp("a \"b\" \\ c\nd") == #"a "b" \\ c\nd"#)
    }

    @Test func numbers() {
        #expect(TextFormat.number(0) == "0")
        #expect(TextFormat.number(-3) == "-3")
        #expect(TextFormat.number(0.25) == "0.25")
        #expect(TextFormat.number(1e-7) == "1e-07")
        #expect(TextFormat.number(1e300) == "1e+300")
        #expect(TextFormat.number(.infinity) == "+Inf")
        #expect(TextFormat.number(-.infinity) == "-Inf")
        #expect(TextFormat.number(.nan) == "NaN")
    }
}
