import ArgumentParser
import JSONText
import Testing

@testable import tramontane

struct LoadReportTests {
    @Test func percentilesAreNumpys() {
        let distribution = Distribution([4, 1, 3, 2])
        #expect(distribution.percentile(0) == 1)
        #expect(distribution.percentile(50) == 2.5)
        #expect(abs(distribution.percentile(90) - 3.7) < 1e-12)
        #expect(distribution.max == 4)
        #expect(distribution.mean == 2.5)
        #expect(abs(distribution.standardDeviation - 1.118_033_988_75) < 1e-9)
        #expect(Distribution([7]).percentile(99) == 7)
        #expect(Distribution([]).percentile(99).isNaN)
    }

    private static let millisecond: UInt64 = 1_000_000

    /// A stream that was due at `due` ms, had its first token after `first` ms and one more each ms.
    private func stream(_ index: Int, due: UInt64, first: UInt64, tokens: UInt64 = 3) -> Exchange {
        var exchange = Exchange(index: index, due: due * Self.millisecond, promptTokens: 10)
        exchange.head(status: 200, isStream: true)
        for token in 0..<tokens {
            let finish = token == tokens - 1 ? #""length""# : "null"
            let event = #"data: {"text": "a", "finish_reason": \#(finish)}"# + "\n\n"
            Array(event.utf8).withUnsafeBytes {
                exchange.received($0, at: (due + first + token) * Self.millisecond)
            }
        }
        Array("data: [DONE]\n\n".utf8).withUnsafeBytes { exchange.received($0, at: 0) }
        exchange.end(at: (due + first + tokens - 1) * Self.millisecond)
        return exchange
    }

    private func refusal(_ index: Int, due: UInt64) -> Exchange {
        var exchange = Exchange(index: index, due: due * Self.millisecond, promptTokens: 10)
        exchange.head(status: 429, isStream: false)
        exchange.end(at: (due + 4) * Self.millisecond)
        return exchange
    }

    private func report(_ arguments: String..., exchanges: [Exchange]) throws -> LoadReport {
        let command = try BenchServeCommand.parse(["--url", "http://localhost:1"] + arguments)
        return LoadReport(
            plan: command.plan,
            bounds: .init(timeToFirstToken: command.goodputTtft, timePerOutputToken: command.goodputTpot),
            url: command.url.text, begun: 0, ended: 2000 * Self.millisecond, sent: exchanges.count + 1,
            exchanges: exchanges)
    }

    @Test func forPrograms() throws {
        let report = try report(
            "--rate", "2.5", "--goodput-ttft", "20", "--tenants", "2",
            exchanges: [
                refusal(2, due: 30), stream(0, due: 0, first: 10), stream(1, due: 5, first: 30),
            ])
        let json = try JSONValue(parsing: report.json(detailed: true))
        #expect(json["request_rate"]?.number == 2.5)
        #expect(json["duration"]?.number == 2)
        #expect(json["completed"]?.integer == 2)
        #expect(json["failed"]?.integer == 1)
        #expect(json["unfinished"]?.integer == 1)
        #expect(json["total_input_tokens"]?.integer == 20)
        #expect(json["total_output_tokens"]?.integer == 6)
        #expect(json["request_throughput"]?.number == 1)
        #expect(json["output_throughput"]?.number == 3)
        #expect(json["request_goodput"]?.number == 0.5)
        #expect(json["median_ttft_ms"]?.number == 20)
        #expect(json["p99_ttft_ms"]?.number == 29.8)
        #expect(json["mean_tpot_ms"]?.number == 1)
        #expect(json["max_e2el_ms"]?.number == 32)
        #expect(json["rejected"]?.integer == 1)
        #expect(json["median_rejection_ms"]?.number == 4)
        #expect(json["errors"]?["429"]?.integer == 1)
        let tenants = json["tenants"]?.array
        #expect(tenants?.compactMap { $0["api_key"]?.string } == ["tenant-1", "tenant-2"])
        #expect(tenants?.compactMap { $0["completed"]?.integer } == [1, 1])
        #expect(json["ttfts"]?.array == [.double(0.01), .double(0.03), .null])
        #expect(json["start_times"]?.array == [.double(0.0), .double(0.005), .double(0.03)])
        #expect(json["request_errors"]?.array?.map(\.string) == ["", "", "429"])
    }

    @Test func nothingMeasuredIsNotReported() throws {
        let json = try JSONValue(parsing: report(exchanges: []).json(detailed: false))
        #expect(json["request_rate"]?.string == "inf")
        #expect(json["mean_ttft_ms"] == nil)
        #expect(json["request_goodput"] == nil)
        #expect(json["completed"]?.integer == 0)
    }

    @Test func forPeople() throws {
        let report = try report(
            "--goodput-ttft", "20", exchanges: [stream(0, due: 0, first: 10), refusal(1, due: 30)])
        for part in ["1 answered, 1 failed", "1 cut off", "1 failed: 429", "time to first token", "answer 429"] {
            #expect(report.table.contains(part), "\(part)")
        }
        #expect(report.plot(columns: 60).contains("10.0 ms"))
    }

    @Test func aPlot() {
        let points = (0..<40).map { LatencyPlot.Point(seconds: Double($0) / 10, milliseconds: $0 < 20 ? 10 : 100) }
        let lines = LatencyPlot(points: points, seconds: 4).text("x", columns: 32).split(separator: "\n")
        #expect(lines.count == LatencyPlot.rows + 3)
        // The lower half of the time is a tenth as high.
        #expect(lines[1] == "  100.0 ms │          ██████████")
        #expect(lines[LatencyPlot.rows] == "           │████████████████████")
        #expect(LatencyPlot(points: [], seconds: 4).text("x", columns: 32).isEmpty)
    }

    @Test(arguments: [
        ["--url", "127.0.0.1:80"], ["--url", "https://h"], ["--url", "http://h:70000"], ["--url", "http://"],
        ["--url", "http://h", "--rate", "0"], ["--url", "http://h", "--rate", "inf"],
        ["--url", "http://h", "--requests", "0"], ["--url", "http://h", "--shared-prefix", "200"],
        ["--url", "http://h", "--api-key", "a b"], ["--url", "http://h", "--api-key", "a", "--tenants", "2"],
        ["--url", "http://h", "--no-stream", "--goodput-ttft", "1"], ["--url", "http://h", "--save-detailed"], [],
    ])
    func whatIsWrong(arguments: [String]) {
        let error = #expect(throws: (any Error).self) { _ = try BenchServeCommand.parse(arguments) }
        #expect(error.map { BenchServeCommand.exitCode(for: $0) } == .validationFailure)
    }

    @Test func urls() throws {
        func parts(_ text: String) throws -> (String, Int, String) {
            let url = try LoadURL(text)
            return (url.host, url.port, url.path)
        }
        #expect(try parts("http://127.0.0.1:8080") == ("127.0.0.1", 8080, "/v1/completions"))
        #expect(try parts("http://host/base/v1/") == ("host", 80, "/base/v1/completions"))
        #expect(try parts("http://[::1]:9") == ("::1", 9, "/v1/completions"))
    }
}
