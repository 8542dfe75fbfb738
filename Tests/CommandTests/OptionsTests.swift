import ArgumentParser
import Engine
import ModelStore
import Placement
import Testing
import Wire

@testable import tramontane

struct OptionsTests {
    @Test func addresses() throws {
        #expect(try Address.listening("[::1]:0") == Address(host: "::1", port: 0))
        let error = #expect(throws: ValidationError.self) { try Address.remote("host:0") }
        #expect(error?.message == "\"host:0\": the port is a number from 1 to 65535")
    }

    private func worker(_ options: String...) throws -> WorkerCommand {
        try WorkerCommand.parse(["--coordinator", "127.0.0.1:7000", "--model", "m"] + options)
    }

    @Test func workersThatAreWellNamed() throws {
        #expect(try worker("--name", "a").name == "a")
        #expect(try worker("--name", String(repeating: "x", count: 64)).name.count == 64)
        for host in ["10.0.0.1", "node-1.example", "::1"] {
            #expect(try worker("--name", "a", "--advertise", host).advertise == host)
        }
    }

    /// Refused before anything is started, and not by a coordinator in minutes.
    @Test(arguments: [
        ["--name", ""], ["--name", String(repeating: "x", count: 65)], ["--name", "a b"], ["--name", "../a"],
        ["--name", "coordinator"], ["--name", "a", "--advertise", ""], ["--name", "a", "--advertise", "node 1"],
        ["--name", "a", "--advertise", "10.0.0.1:7000"], ["--name", "a", "--advertise", "[::1]"],
        ["--name", "a", "--listen", "0.0.0.0:7000"], ["--name", "a", "--metrics", "0.0.0.0:9100"],
        ["--name", "a", "--metrics", "9100"],
    ])
    func workersThatAreWrong(options: [String]) {
        let error = #expect(throws: (any Error).self) {
            _ = try WorkerCommand.parse(["--coordinator", "127.0.0.1:7000", "--model", "m"] + options)
        }
        if let error { #expect(Tramontane.exitCode(for: error).rawValue == 64) }
    }

    @Test func theCoordinatorOfUpIsToldTheBackend() throws {
        let serving = try ServingOptions.parse(["--model", "m", "--workers", "1", "--compute", "openblas"])
        let arguments = serving.arguments(modelPath: "m")
        let place = try #require(arguments.firstIndex(of: "--compute"))
        #expect(arguments[place + 1] == "openblas")
        #expect(throws: Never.self) { try ServingOptions.parse(arguments) }
    }

    @Test func theCoordinatorOfUpIsToldTheTenants() throws {
        let serving = try ServingOptions.parse(["--model", "m", "--workers", "1", "--tenants", "t.yaml"])
        let arguments = serving.arguments(modelPath: "m")
        let place = try #require(arguments.firstIndex(of: "--tenants"))
        #expect(arguments[place + 1] == "t.yaml")
        let without = try ServingOptions.parse(["--model", "m", "--workers", "1"])
        #expect(!without.arguments(modelPath: "m").contains("--tenants"))
    }

    @Test func sizes() throws {
        #expect(try NumberParsing.bytes("8GiB") == 8 << 30)
        #expect(try NumberParsing.bytes("512m") == 512 << 20)
        #expect(try NumberParsing.bytes("77") == 77)
        for text in ["", "GiB", "8XB", "0", "-1", "99999999999999999999", "17179869184GiB", "8 GiB of it"] {
            #expect(throws: ValidationError.self) { try NumberParsing.bytes(text) }
        }
    }

    /// 6 layers, 8 experts.
    private let shape = ModelShape(
        layers: 6, hidden: 256, heads: 8, keyValueHeads: 2, headDimension: 32, feedForward: 256, experts: 8,
        expertsUsed: 2, vocabulary: 1536, contextLength: 2048, ropeTheta: 1e6, normEpsilon: 1e-5, beginToken: 1,
        endToken: 2)

    @Test func aTopology() throws {
        let topology = try TopologyFile.parse(
            """
            stages:
              - layers: 0-2
                workers:
                  - { name: a, experts: 0-3 }
                  - { name: b, experts: "3,4-7" }
              - layers: 3-5
                workers:
                  - name: c
                    experts: [0, 1, 2, 3, 4, 5, 6, 7]
            """, file: "t.yaml", shape: shape)
        #expect(topology.workers == ["a", "b", "c"])
        #expect(topology.stages[0].layers == 0..<3)
        #expect(topology.stages[0].members[1].experts == [3, 4, 5, 6, 7])
    }

    @Test func aListOfRanges() throws {
        let topology = try TopologyFile.parse(
            oneStage("      - { name: a, experts: [0-3, 4, 5-7] }\n"), file: "t.yaml", shape: shape)
        #expect(topology.stages[0].members[0].experts == Array(0...7))
    }

    @Test func tooFewPagesAreSaidAtTheStart() throws {
        let topology = try Topology.even(shape: shape, workers: ["a", "b"], stages: 1)
        func warning(_ arguments: [String]) throws -> String? {
            try ServingOptions.parse(["--model", "m", "--workers", "2"] + arguments)
                .warning(shape: shape, topology: topology)
        }
        // Two lanes that share no worker: each has all the pages of its own.
        #expect(
            try warning(["--pages", "1"])
                == "--pages 1: only 32 tokens of a sequence fit into a lane's KV cache, the context has 2048; "
                + "give more --pages, or a smaller --context-length")
        #expect(try warning(["--pages", "63"])?.contains("only 2016 tokens") == true)
        #expect(try warning(["--pages", "64"]) == nil)
        #expect(try warning([]) == nil)
        var long = shape
        long.contextLength = 65_536
        let byDefault = try ServingOptions.parse(["--model", "m", "--workers", "2"])
        #expect(
            try byDefault.warning(shape: long, topology: topology)?.hasPrefix("--pages 1024, the default: only") == true
        )
        #expect(try warning(["--pages", "2", "--context-length", "64"]) == nil)
        #expect(
            try warning(["--kv-memory", "3000K"])
                == "--kv-memory 3072000: only 1984 tokens of a sequence fit into a lane's KV cache, the context has 2048; "
                + "give more --kv-memory, or a smaller --context-length")
    }

    @Test func theMemoryOfTheCacheBecomesPages() throws {
        func serving(_ arguments: String...) throws -> ServingOptions {
            try ServingOptions.parse(["--model", "m", "--workers", "3"] + arguments)
        }
        // A page: 32 tokens, keys and values, 2 heads of 32 dimensions, 2 bytes: 8 KiB for each layer.
        func pages(_ memory: String, _ topology: Topology) throws -> Int {
            try serving("--kv-memory", memory).pagesPerWorker(shape: shape, topology: topology)
        }
        let together = try Topology.even(shape: shape, workers: ["a", "b"], stages: 1)
        let apart = try Topology.even(shape: shape, workers: ["a", "b"], stages: 2)
        #expect(try pages("3MiB", together) == 3 << 20 / (6 * 8192))
        #expect(try pages("3MiB", apart) == 3 << 20 / (3 * 8192))
        #expect(try pages("384GiB", apart) == 1 << 24)
        let large = #expect(throws: CommandError.self) { try pages("385GiB", apart) }
        #expect(large?.message.contains("16820906 pages of 32 tokens; a worker has 16777216 at most") == true)
        #expect(
            try serving("--kv-memory", "3MiB").cacheSummary(shape: shape, topology: apart)
                == "KV cache: 128 pages of 32 tokens in each worker, room for 4096 tokens")
        #expect(
            try serving("--pages", "1").cacheSummary(shape: shape, topology: together)
                == "KV cache: 1 page of 32 tokens in each worker, room for 32 tokens in each of 2 lanes")
        #expect(try pages("48K", together) == 1)
        let small = #expect(throws: CommandError.self) { try pages("47K", together) }
        #expect(small?.message.contains("takes 49152 in a worker of 6 layers") == true)
        // The coordinator of `up` is told the same.
        #expect(try ServingOptions.parse(serving("--kv-memory", "3MiB").arguments(modelPath: "m")).kvMemory == 3 << 20)
        #expect(throws: (any Error).self) { try serving("--kv-memory", "3MiB", "--pages", "64") }
    }

    @Test func theWorkersOfUpAreToldWhereWeightsAre() throws {
        func weights(_ arguments: String...) throws -> WeightMemory? {
            let up = try UpCommand.parse(["--model", "m", "--workers", "1"] + arguments)
            let told = up.workerArguments(name: "a", coordinator: "127.0.0.1:7000", modelPath: "m", workers: ["a"])
            return try WorkerCommand.parse(Array(told.dropFirst())).weights
        }
        #expect(try weights() == nil)
        #expect(try weights("--weights", "resident") == .resident)
        #expect(throws: (any Error).self) { try weights("--weights", "here") }
    }

    @Test func theWorkersOfUpHaveMetrics() throws {
        func metrics(_ worker: String, _ arguments: String...) throws -> (Address?, Bool) {
            let up = try UpCommand.parse(["--model", "m", "--workers", "2"] + arguments)
            let told = up.workerArguments(
                name: worker, coordinator: "127.0.0.1:7000", modelPath: "m", workers: ["a", "b"])
            let command = try WorkerCommand.parse(Array(told.dropFirst()))
            return (command.metrics, command.insecureNetwork)
        }
        #expect(try metrics("b") == (Address(host: "127.0.0.1", port: 0), false))
        #expect(try metrics("a", "--worker-metrics", "[::1]:9100") == (Address(host: "::1", port: 9100), false))
        #expect(
            try metrics("b", "--worker-metrics", "10.0.0.1:9100", "--insecure-network")
                == (Address(host: "10.0.0.1", port: 9101), true))
        #expect(try worker("--name", "a").metrics == nil)
    }

    private func oneStage(_ workers: String) -> String {
        "stages:\n  - layers: 0-5\n    workers:\n" + workers
    }

    @Test func topologiesThatAreWrong() {
        let all = "      - { name: a, experts: 0-7 }\n"
        let cases: [(text: String, says: String)] = [
            (oneStage("      - { name: a, experts: 0-6 }\n"), "nobody holds expert 7"),
            (oneStage(all + all), "named twice"),
            (oneStage(all).replacing("layers:", with: "layer:"), "did you mean \"layers\""),
            (oneStage("      - { name: a, exprets: 0-7 }\n"), "did you mean \"experts\""),
            (oneStage("      - { name: a, experts: 0-9999999999 }\n"), "0-9999999999"),
            (oneStage("      - { name: a, experts: 0-8 }\n"), "expert 8"),
            ("stages:\n  - layers: 0-4\n    workers:\n" + all, "belong to no stage"),
            ("stages: []", "no stages"),
            ("stage: []", "did you mean \"stages\""),
            (
                oneStage("      - { name: a, experts: 7-0 }\n"),
                "stages[0].workers[0].experts: \"7-0\": the range 7-0 ends"
            ),
            (
                oneStage(all).replacing("0-5", with: "5-0"),
                "stages[0].layers: \"5-0\": the range 5-0 ends before it begins"
            ),
            (oneStage("      - { name: a, experts: [0, 1, 1] }\n"), "1 appears twice"),
            ("{", ""),
            ("", "the file is empty; a topology begins with \"stages:\""),
            ("# nothing yet\n", "the file is empty"),
            ("stages: 5", "stages: a list is expected"),
            ("5", "a list of `key: value` is expected"),
            (
                oneStage("      - { name: [a], experts: 0-7 }\n"),
                "stages[0].workers[0].name: a single value is expected"
            ),
            (oneStage("      - { name: a }\n"), "stages[0].workers[0]: experts is missing"),
        ]
        for (text, says) in cases {
            let error = #expect(throws: CommandError.self) {
                try TopologyFile.parse(text, file: "t.yaml", shape: shape)
            }
            #expect(error?.status == 64)
            #expect(error?.message.hasPrefix("t.yaml: ") == true)
            #expect(says.isEmpty || error?.message.contains(says) == true, "\(error?.message ?? "")")
        }
    }
}
