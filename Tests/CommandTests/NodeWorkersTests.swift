import ArgumentParser
import Engine
import Testing
import Wire

@testable import tramontane

struct NodeWorkersTests {
    /// So many nodes of 4 processors.
    private func nodes(_ count: Int) -> [NUMANode] {
        (0..<count).map { NUMANode(number: Int32($0), processors: Array($0 * 4..<$0 * 4 + 4)) }
    }

    private func deal(_ names: [String], _ nodes: [NUMANode], threads: Int? = nil, available: Int = 1024) throws
        -> [String]
    {
        try NodeWorker.deal(names, over: nodes, threads: threads, available: available)
            .map { "\($0.name) on \($0.node), \($0.threads)" }
    }

    @Test func oneForEachNode() throws {
        #expect(try deal(["a"], nodes(1)) == ["a on 0, 4"])
        #expect(try deal(["a", "b"], nodes(2)) == ["a on 0, 4", "b on 1, 4"])
        #expect(try deal(["a", "b"], nodes(2), threads: 3) == ["a on 0, 3", "b on 1, 3"])
    }

    @Test func severalOnANodeShareItsProcessors() throws {
        #expect(try deal(["a", "b", "c"], nodes(2)) == ["a on 0, 2", "b on 1, 4", "c on 0, 2"])
        #expect(try deal(["a", "b", "c", "d", "e"], nodes(1)).allSatisfy { $0.hasSuffix(" 1") })
    }

    @Test func aQuotaIsSharedAsTheProcessorsAre() throws {
        #expect(try deal(["a", "b"], nodes(2), available: 4) == ["a on 0, 2", "b on 1, 2"])
        #expect(try deal(["a", "b"], nodes(2), available: 1) == ["a on 0, 1", "b on 1, 1"])
    }

    @Test func noNodeGoesWithoutAWorker() {
        let error = #expect(throws: CommandError.self) { try deal(["a", "b"], nodes(3)) }
        #expect(error?.status == 64)
        #expect(error?.message == "--numa all: 2 workers are too few for 3 NUMA nodes; each has at least one")
    }

    // MARK: up

    private func up(_ options: String...) throws -> UpCommand {
        try UpCommand.parse(["--model", "m"] + options)
    }

    @Test func upHasAWorkerForEachNodeWhereNothingSaysMore() throws {
        #expect(try up("--numa", "all").options(on: nodes(8)).workers == 8)
        #expect(try up("--numa", "all", "--workers", "16").options(on: nodes(8)).workers == 16)
        #expect(try up("--numa", "all", "--topology", "t").options(on: nodes(8)).workers == nil)
        #expect(throws: (any Error).self) { try up() }
        for wrong in ["1", "each", ""] { #expect(throws: (any Error).self) { try up("--numa", wrong) } }
        #expect(throws: (any Error).self) { try CoordinatorCommand.parse(["--model", "m"]) }
    }

    @Test func theWorkersOfUpAreToldTheirNodes() throws {
        let place = NodeWorker(name: "a", node: 3, threads: 5)
        let told = try up("--numa", "all", "--memory", "4GiB").workerArguments(
            name: "a", coordinator: "127.0.0.1:7000", modelPath: "m", workers: ["a", "b"], place: place)
        let worker = try WorkerCommand.parse(Array(told.dropFirst()))
        #expect(worker.numa == .node(3) && worker.threads == 5 && worker.memory == 4 << 30)
        let free = try up("--workers", "1").workerArguments(
            name: "a", coordinator: "127.0.0.1:7000", modelPath: "m", workers: ["a"])
        #expect(try WorkerCommand.parse(Array(free.dropFirst())).numa == nil)
    }

    // MARK: worker

    private func worker(_ options: String...) throws -> WorkerCommand {
        try WorkerCommand.parse(["--coordinator", "127.0.0.1:7000", "--model", "m", "--name", "a"] + options)
    }

    @Test func aWorkerOfEachNode() throws {
        let command = try worker(
            "--numa", "all", "--listen", "10.0.0.1:7100", "--metrics", "10.0.0.1:9100", "--advertise", "node",
            "--weights", "resident",
            "--trust-blobs",
            "--insecure-network", "--memory", "1GiB", "--log-level", "debug", "--compute", "openblas")
        let workers = try command.nodeWorkers(nodes(2), available: 8)
        #expect(workers.map(\.worker.name) == ["a-0", "a-1"])
        #expect(workers.map(\.listen.port) == [7100, 7101])
        let told = command.arguments(workers[1].worker, workers[1].listen, "m.json", index: 1)
        let child = try WorkerCommand.parse(Array(told.dropFirst()))
        #expect(child.name == "a-1" && child.numa == .node(1) && child.threads == 4 && child.supervised)
        #expect(
            child.coordinator == command.coordinator && child.model == "m.json" && child.listen == workers[1].listen)
        #expect(child.advertise == "node" && child.weights == .resident && child.memory == 1 << 30)
        #expect(
            child.trustBlobs && child.insecureNetwork && "\(child.logLevel)" == "debug" && child.compute == .openblas)
        #expect(child.metrics?.port == 9101)
        let plain = try worker("--numa", "all").nodeWorkers(nodes(1), available: 4)
        #expect(plain.map(\.worker.name) == ["a-0"] && plain[0].listen.port == 0)
    }

    @Test func namesAndPortsThatDoNotGoOn() throws {
        let ports = #expect(throws: CommandError.self) {
            try worker("--listen", "127.0.0.1:65535").nodeWorkers(nodes(2), available: 8)
        }
        #expect(ports?.message == "--listen 127.0.0.1:65535: there are no 2 ports from there")
        let long = String(repeating: "x", count: 63)
        let name = #expect(throws: CommandError.self) {
            try worker("--name", long).nodeWorkers(nodes(1), available: 8)
        }
        #expect(name?.message.contains("65 bytes") == true)
    }

    @Test func aNodeThatIsNotThere() throws {
        let here = NUMANodes { _ in nil }
        #expect(try here.node(0).number == 0)
        let error = #expect(throws: CommandError.self) { try here.node(7) }
        #expect(error?.status == 64)
        #expect(
            error?.message == "--numa 7: the nodes with processors and memory that this process may use are 0")
        for wrong in ["-1", "both", "1.5", "99999999999"] {
            #expect(throws: (any Error).self) { try worker("--numa", wrong) }
        }
    }
}
