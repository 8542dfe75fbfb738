import ArgumentParser
import Engine
import Foundation
import JSONText
import ModelStore
import Testing

@testable import tramontane

struct BenchTests {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    private static let demo = root.appending(path: "cluster/demo").path

    /// A directory that goes with the test.
    private final class Folder {
        let path = FileManager.default.temporaryDirectory.appending(path: "bench-\(UUID().uuidString)").path
        deinit { try? FileManager.default.removeItem(atPath: path) }
    }

    /// Commands block, which threads of Swift's pool must not.
    private func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
        }
    }

    private func report(memoryBytes: Int = 1 << 20, _ arguments: String...) async throws -> (
        json: JSONValue, table: String
    ) {
        let text = try await onThread {
            let report = try BenchCommand.parse(arguments).report(memoryBytes: memoryBytes)
            return (report.json, report.table)
        }
        return (try JSONValue(parsing: text.0), text.1)
    }

    private func parse(_ arguments: String...) throws -> BenchCommand {
        try BenchCommand.parse(arguments)
    }

    @Test func aModelsFiguresHaveThePeersNames() async throws {
        let folder = Folder()
        let (json, table) = try await report(
            memoryBytes: 8 << 20,
            "--model", Self.demo, "--cache", folder.path, "--threads", "2", "--prefill", "40", "--batch", "1", "3",
            "--context", "600", "70", "--decode", "2", "--repeat", "2", "--workers", "2", "--weights", "resident",
            "--json")
        for name in [
            "prefill_40", "decode_batch_1", "decode_batch_3", "decode_context_70", "decode_context_600",
        ] {
            for figure in ["tokens_per_second", "floor_tokens_per_second", "fraction_of_floor"] {
                let value = try #require(json["\(name)_\(figure)"]?.number, "\(name)_\(figure)")
                #expect(value > 0)
            }
            #expect(["memory", "arithmetic"].contains(json["\(name)_bound"]?.string))
        }
        for name in ["prefill_40", "decode_batch_1", "decode_batch_3"] {
            #expect(json["\(name)_workers_2_tokens_per_second"]?.number ?? 0 > 0)
            #expect(json["\(name)_workers_2_of_one_process"]?.number ?? 0 > 0)
            #expect((json["\(name)_workers_2_fraction_of_floor"]?.number ?? 0 > 0) == name.hasPrefix("decode"))
        }
        #expect(json["worker_read_bytes_per_second"]?.number ?? 0 > 0)
        #expect(json["decode_context_70_workers_2_tokens_per_second"] == nil)
        #expect(json["threads"]?.integer == 2)
        #expect(json["weights"]?.string == "resident")
        #expect(json["instruction_set"]?.string == instructionSetName())
        #expect(json["read_bytes_per_second"]?.number ?? 0 > 0)
        // 6 layers of 8 experts, 2 for each row.
        #expect(json["decode_batch_1_experts_per_step"]?.number == 12)
        let wide = try #require(json["decode_batch_3_experts_per_step"]?.number)
        #expect(wide >= 12 && wide <= 36)
        // The one sequence's keys and values: 2 heads of 32 values, 2 bytes each, keys and values, 6 layers; 530 tokens more.
        let short = try #require(json["decode_context_70_bytes_per_step"]?.integer)
        let long = try #require(json["decode_context_600_bytes_per_step"]?.integer)
        #expect(long - short == 530 * 2 * 32 * 2 * 2 * 6)
        #expect(json["decode_context_600_longer_than_70_seconds_per_step"]?.number != nil)
        #expect(json["decode_context_600_longer_than_70_of_reading"]?.number != nil)
        for line in ["prefill 40", "decode batch 3", "decode context 70", "decode context 600", "than 70"] {
            #expect(table.contains(line))
        }
        let comparisons = table.split(separator: "\n").filter { $0.contains("than 70") }
        #expect(comparisons.count == 1 && comparisons.allSatisfy { $0.hasPrefix("decode context 600 ") })
    }

    /// 1,000 bytes more take 2, 1 and 4 seconds at 1,000, 500 and 250 bytes a second.
    @Test func aLongContextIsComparedWithTheShortOneBesideIt() {
        func runs(_ seconds: [Double], bytes: Int) -> [TimedRun] {
            var step = StepWork()
            step.keyValueBytes = bytes
            return seconds.map { TimedRun(seconds: $0, work: [step, step]) }
        }
        let cost = ContextCost(
            over: 64, long: runs([14, 8, 20], bytes: 1_500), short: runs([10, 6, 12], bytes: 500),
            readBytesPerSecond: [1_000, 500, 250])
        #expect(cost.shortest == 64)
        #expect(cost.seconds == 2)
        #expect(cost.ofReading == 1)
        #expect(
            cost.sentence(of: "decode_context_128").hasPrefix(
                "decode context 128 takes 2000.000 ms a step longer than 64, 1.00 "))
        // Other work may have taken more than attention did.
        let noise = ContextCost(
            over: 64, long: runs([10], bytes: 1_500), short: runs([14], bytes: 500), readBytesPerSecond: [1_000])
        #expect(noise.sentence(of: "decode_context_128").hasPrefix("decode context 128 was no slower than 64"))
    }

    /// A worker with resident weights has no file of its store in its mappings.
    @Test(arguments: WeightMemory.allCases)
    func theWorkersHaveTheirWeightsWhereTheyAreTold(weights: WeightMemory) async throws {
        let folder = Folder(), cache = folder.path
        let model = try await onThread {
            try BenchCommand.parse(["--model", "m", "--cache", cache]).models.resolve(Self.demo)
        }
        let cluster = try await LocalCluster(
            model: model, experts: [[0, 1, 2, 3], [4, 5, 6, 7]], homes: [0], threadsEach: 1, compute: .native,
            weights: weights, pages: 1)
        let step = LocalCluster.Run(steps: [[.init(position: 0, tokens: [5])]], pagesEach: 1)
        let result: Result<[[Double]], any Error>
        do {
            result = .success(try await cluster.run([step]))
        } catch {
            result = .failure(error)
        }
        let mappings = try self.mappings()
        try await cluster.stop()
        #expect(try result.get().count == 1)
        #expect(mappings.contains(folder.path) == (weights == .mapped))
    }

    /// What this process maps. Foundation would stop at the first page of it.
    private func mappings() throws -> String {
        let file = try #require(fopen("/proc/self/maps", "r"))
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&part, 1, part.count, file), count > 0 { bytes += part[..<count] }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test func theMemoryOfSeveralWorkersIsTheirs() async throws {
        let folder = Folder(), cache = folder.path
        let model = try await onThread {
            try BenchCommand.parse(["--model", "m", "--cache", cache]).models.resolve(Self.demo)
        }
        let plan = ModelBenchPlan(batch: [1])
        func weights(_ workers: Int) throws -> UInt64 {
            try ClusterBench.memory(model: model, plan: plan, workers: workers, compute: .native, weights: .resident)
                .weightBytes
        }
        let whole =
            UInt64(model.manifest.uniqueBlobs.reduce(0) { $0 + $1.bytes }) - UInt64(model.manifest.tokenizer.bytes)
        let dense = UInt64(
            (model.manifest.layers.map(\.dense) + [model.manifest.embedding, model.manifest.head]).reduce(0) {
                $0 + $1.bytes
            })
        #expect(try weights(1) == whole)
        #expect(try weights(4) == whole + 3 * dense)
    }

    @Test func whatIsNotNamedIsThePeersChoice() throws {
        let plan = try parse("--model", "m").plan
        #expect(plan == ModelBenchPlan(prefill: [256], batch: [1, 4, 16], context: [], decode: 16, repeats: 3))
        #expect(try parse("--model", "m", "--batch", "4").plan.prefill.isEmpty)
        #expect(try parse("--model", "m", "--context", "4096").plan.batch.isEmpty)
        #expect(try parse("--model", "m", "--batch=1,4 16", "--prefill", "7").plan.batch == [1, 4, 16])
        #expect(try parse("--model", "m", "--hop").plan.longestSequence == 0)
        #expect(try parse("--model", "m", "--hop", "--batch", "2").plan.batch == [2])
    }

    /// Turns of 10 and 20, 12 and 12, 30 and 45 seconds: 0.5, 1 and 2/3 of one process's rate.
    @Test func workersAreComparedWithTheRunBesideTheirs() {
        let figure = ClusterFigure(.batch(1), seconds: [20, 12, 45], own: [10, 12, 30])
        #expect(figure.seconds == 20)
        #expect(figure.ofOneProcess == 30.0 / 45)
    }

    @Test func moreWorkersThanExperts() async throws {
        let folder = Folder()
        let error = await #expect(throws: CommandError.self) {
            try await report("--model", Self.demo, "--cache", folder.path, "--workers", "9")
        }
        #expect(error?.status == 64)
        #expect(error?.message.contains("--workers 9") == true && error?.message.contains("8") == true)
    }

    @Test func whatBindsIsTheLonger() {
        var work = StepWork()
        work.weightBytes = 300
        work.integerMultiplyAdds = 100
        work.floatMultiplyAdds = 10
        let runs = [11, 12, 20].map { TimedRun(seconds: $0, work: [work, work, work]) }
        let figure = ModelFigure(name: "decode_batch_1", tokens: 3, runs: runs)
        let slowMemory = BenchRates(readBytes: 100, integers: 100, floats: 10)
        #expect(figure.floorSeconds(slowMemory) == 9 && figure.isBoundByMemory(slowMemory))
        let fastMemory = BenchRates(readBytes: 1_000, integers: 100, floats: 10)
        #expect(figure.floorSeconds(fastMemory) == 6 && !figure.isBoundByMemory(fastMemory))
        #expect(figure.secondsPerStep == 4 && figure.tokensPerSecond == 0.25 && figure.bytesPerStep == 300)
    }

    @Test func pagesForTheWidestMeasurement() {
        #expect(ModelBenchPlan(prefill: [256]).pages == 8)
        #expect(ModelBenchPlan(batch: [1, 16], decode: 31).pages == 16)
        #expect(ModelBenchPlan(batch: [1, 16], decode: 32).pages == 32)
        #expect(ModelBenchPlan(context: [4096], decode: 16).pages == 129)
        #expect(ModelBenchPlan(context: [4096], decode: 16).longestSequence == 4113)
        #expect(ModelBenchPlan(prefill: [7]).longestSequence == 7)
    }

    @Test(arguments: [
        [], ["--json"], ["--batch", "1"], ["--model", "m", "--batch", "0"], ["--model", "m", "--batch", "4", "4"],
        ["--model", "m", "--prefill", "-1"], ["--model", "m", "--prefill", "1e3"], ["--model", "m", "--prefill", ","],
        ["--model", "m", "--decode", "0"],
        ["--model", "m", "--repeat", "0"], ["--model", "m", "--threads", "0"], ["--model", "m", "--isa", "sse9"],
        ["--cpu", "--prefill", "256"], ["--cpu", "--workers", "2"], ["--model", "m", "--workers", "0"],
        ["--model", "m", "--compute", "cuda"],
    ])
    func argumentsThatAreWrong(arguments: [String]) {
        let error = #expect(throws: (any Error).self) { try BenchCommand.parse(arguments) }
        #expect(error.map { BenchCommand.exitCode(for: $0) } == .validationFailure)
    }

    @Test func sequencesThatDoNotFitTheContext() async throws {
        let folder = Folder()
        let error = await #expect(throws: CommandError.self) {
            try await report("--model", Self.demo, "--cache", folder.path, "--context", "2048")
        }
        #expect(error?.status == 64)
        #expect(error?.message.contains("2065") == true && error?.message.contains("2048") == true)
    }

    @Test func theMachine() async throws {
        let (json, table) = try await report("--cpu", "--threads", "2", "--repeat", "1")
        let machine = try #require(json["machine"])
        #expect(machine["read_bytes_per_second"]?.number ?? 0 > 0)
        let sets = try #require(machine["instruction_sets"]?.array)
        #expect(sets.compactMap { $0["name"]?.string } == InstructionSet.all.map(\.name))
        for (set, known) in zip(sets, InstructionSet.all) {
            #expect(set["available"]?.boolean == known.isAvailable)
            #expect((set["int8_multiply_adds_per_second"]?.number ?? 0 > 0) == known.isAvailable)
        }
        #expect(table.contains(instructionSetName()))
    }

    @Test func aHopThatTookNoTimeIsExplained() throws {
        var hop = try HopBench(trips: 8, sweptBytes: 1 << 20)
        hop.remoteExpertMicroseconds = 3
        #expect(!hop.table.contains("try more --repeat"))
        hop.remoteExpertMicroseconds = -3
        #expect(hop.table.hasSuffix("other work made the difference; try more --repeat\n"))
    }

    @Test func theHop() async throws {
        let folder = Folder()
        let (json, table) = try await report(
            "--hop", "--model", Self.demo, "--cache", folder.path, "--threads", "1", "--decode", "2", "--repeat", "1")
        #expect(json["model"] == nil)
        let hop = try #require(json["hop"])
        // Whether it adds or takes away depends on the machine's mood at two steps of so small a model.
        #expect(hop["remote_expert_adds_microseconds"]?.number != nil)
        #expect(hop["bytes_each_way"]?.integer == 26_000)
        for name in ["raw_sockets_microseconds", "data_plane_frames_microseconds", "frames_over_raw"] {
            #expect(hop[name]?.number ?? 0 > 0)
        }
        #expect(table.contains("26000 BYTES"))
        #expect((hop["cold_frames_over_raw"] == nil) == (hop["two_processors_frames_over_raw"] == nil))
        for name in ["cold_raw_sockets_microseconds", "cold_data_plane_frames_microseconds"] {
            if let time = hop[name] { #expect(time.number ?? 0 > 0) }
        }
        #expect(table.contains("cold caches") == (hop["cold_frames_over_raw"] != nil))
    }

    @Test func anImport() async throws {
        let (json, _) = try await report("--import", Self.demo)
        let found = try #require(json["import"])
        // The demo's weights, 16 bits each.
        #expect(found["bytes"]?.integer ?? 0 > 20_000_000)
        for name in ["import", "disk_read", "disk_write"] {
            #expect(found["\(name)_bytes_per_second"]?.number ?? 0 > 0)
        }
        #expect(throws: CommandError.self) { try ImportBench(source: "/nowhere/at/all") }
    }

    @Test func instructionSets() throws {
        try InstructionSet.choose(environment: [:])
        try InstructionSet.choose(environment: ["TRAMONTANE_ISA": ""])
        let error = #expect(throws: CommandError.self) {
            try InstructionSet.choose(environment: ["TRAMONTANE_ISA": "sse9"])
        }
        #expect(error?.status == 64)
        #expect(error?.message.contains("portable") == true)
        // What computes already stays as it is, and may be asked for again.
        try InstructionSet.choose(environment: ["TRAMONTANE_ISA": InstructionSet.current.name])
        for other in InstructionSet.all where other != .current {
            #expect(throws: CommandError.self) { try InstructionSet.choose(other, from: "--isa") }
        }
    }

    @Test func medians() {
        #expect(Median.of([3, 1, 2]) == 2)
        #expect(Median.of([4, 1, 2, 3]) == 2.5)
        #expect(Median.of([]).isNaN)
    }

    @Test func figuresForPeople() {
        #expect(Figure.fixed(1.25, 1) == "1.3")
        #expect(Figure.fixed(0.04, 2) == "0.04")
        #expect(Figure.fixed(-0.04, 1) == "0.0")
        #expect(Figure.fixed(-2.5, 0) == "-3")
        #expect(Figure.fixed(.infinity, 1) == "-")
        #expect(Figure.giga(23_456_000_000) == "23.5")
    }
}

extension JSONValue {
    var number: Double? {
        switch self {
        case .integer(let digits): Double(digits)
        case .double(let value): value
        default: nil
        }
    }

    fileprivate var boolean: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }
}
