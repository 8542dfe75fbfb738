import Foundation
import JSONText
import SwiftProtobuf
import Testing
import Wire

@testable import tramontane

struct OutputTests {
    @Test func jsonLines() {
        let line = JSONLine.object { object in
            object.string("text", "a\"\n")
            object.numbers("ids", [1, 2] as [Int32])
            object.object("inner") { $0.bool("yes", true) }
            object.objects("list", [1, 2]) { $0.number("n", $1) }
            object.member("pair") { $0.pair({ $0.number(1) }, { $0.number(Float(0.1)) }) }
        }
        #expect(
            line
                == #"{"text":"a\"\n","ids":[1,2],"inner":{"yes":true},"list":[{"n":1},{"n":2}],"pair":[1,0.1]}"# + "\n")
    }

    /// Any bits come back, through a reader that knows nothing but doubles.
    @Test(arguments: [41, 42] as [UInt32])
    func floatsReadBackToTheSameBits(seed: UInt32) throws {
        var bits = seed
        for _ in 0..<2000 {
            bits = bits &* 1_664_525 &+ 1_013_904_223
            let value = Float(bitPattern: bits)
            guard value.isFinite else { continue }
            var line = JSONLine()
            line.number(value)
            guard case .double(let read) = try JSONValue(parsing: line.text) else {
                Issue.record("\(line.text) is no number")
                continue
            }
            #expect(Float(read).bitPattern == bits, "\(line.text)")
        }
    }

    @Test func sizes() {
        #expect(ByteCount.text(0) == "0 B")
        #expect(ByteCount.text(1023) == "1023 B")
        #expect(ByteCount.text(1536) == "1.5 KiB")
        #expect(ByteCount.text(22 << 20) == "22.0 MiB")
        #expect(ByteCount.text(.max).hasSuffix(" TiB"))
    }

    @Test func progress() {
        #expect(ProgressBar.line("importing", item: "head", done: 0, of: 0).contains("100%"))
        #expect(ProgressBar.line("importing", item: "head", done: 50, of: 100).contains("50%"))
        #expect(ProgressBar.line("importing", item: "head", done: 200, of: 100).contains("100%"))
    }

    @Test func linesOfAPipe() throws {
        let pipe = Pipe()
        try pipe.fileHandleForWriting.write(contentsOf: Data("one\n\r\ntwo\r\nlast".utf8))
        try pipe.fileHandleForWriting.close()
        var reader = LineReader(pipe.fileHandleForReading.fileDescriptor)
        var lines: [String] = []
        while let line = try reader.next() { lines.append(String(decoding: line, as: UTF8.self)) }
        #expect(lines == ["one", "", "two", "last"])
        #expect(reader.number == 4)
    }

    @Test func ranges() {
        #expect(StatusReport.ranges([]) == "")
        #expect(StatusReport.ranges([0, 1, 2, 3, 6]) == "0-3,6")
    }

    private let status = ProtoStatusResponse.with { status in
        status.coordinator = "coordinator"
        status.model = "demo"
        status.ready = true
        status.epoch = 1
        status.workers = [
            .with {
                $0.name = "worker-0"
                $0.state = "ready"
                $0.layerCount = 3
                $0.metricsAddress = "127.0.0.1:9100"
                $0.experts = [0, 2, 4, 6]
                $0.accounting.links = [.with { $0.peer = "worker-1" }]
                $0.accounting.mappedBlobs = ["ab"]
            },
            // Numbers from the wire may be anything.
            .with {
                $0.firstLayer = .max
                $0.layerCount = .max
            },
        ]
        status.lanes = [.with { $0.workers = ["worker-0", "worker-2"] }]
    }

    @Test func statusForPrograms() throws {
        let json = try JSONValue(parsing: StatusReport.json(status))
        #expect(json["epoch"]?.integer == 1)
        let worker = try #require(json["workers"]?.array?.first)
        #expect(worker["experts"]?.array?.compactMap(\.integer) == [0, 2, 4, 6])
        #expect(worker["pages_used"]?.integer == 0)
        #expect(worker["metrics_address"]?.string == "127.0.0.1:9100")
        #expect(worker["accounting"]?["mapped_blobs"]?.array == [.string("ab")])
        #expect(json["lanes"]?.array?.first?["workers"]?.array?.count == 2)
        #expect(json["requests"]?["queue_limit"]?.integer == 0)
    }

    @Test func statusForPeople() {
        let table = StatusReport.table(status)
        #expect(table.contains("worker-0 → worker-2"))
        #expect(table.contains("0,2,4,6"))
        #expect(table.contains("127.0.0.1:9100"))
        #expect(table.split(separator: "\n").allSatisfy { !$0.hasSuffix(" ") })
    }

    @Test func theStateFile() throws {
        var state = ClusterState(processID: 7, model: "demo")
        state.children = [.init(name: "worker-0", processID: 8, log: "/tmp/x", state: "running")]
        let json = try JSONValue(parsing: state.json)
        #expect(json["pid"]?.integer == 7)
        #expect(json["processes"]?.array?.first?["state"]?.string == "running")
    }
}
