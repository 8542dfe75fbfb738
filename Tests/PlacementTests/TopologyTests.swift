import Foundation
import ModelStore
import Placement
import TestSupport
import Testing

func makeShape(layers: Int, experts: Int) -> ModelShape {
    ModelShape(
        layers: layers, hidden: 64, heads: 4, keyValueHeads: 2, headDimension: 16, feedForward: 64, experts: experts,
        expertsUsed: min(2, experts), vocabulary: 300, contextLength: 256, ropeTheta: 1e6, normEpsilon: 1e-5,
        beginToken: 1, endToken: 2)
}

@Suite struct TopologyTests {
    @Test func evenTopologyHoldsEverythingOnce() throws {
        for seed in 0..<500 { try checkEvenTopology(seed: UInt64(seed)) }
    }

    private func checkEvenTopology(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let shape = makeShape(layers: .random(in: 1...60, using: &random), experts: .random(in: 1...16, using: &random))
        let stages = Int.random(in: 1...8, using: &random)
        let workers = (0..<Int.random(in: 1...32, using: &random)).map { "w\($0)" }
        let fits =
            stages <= shape.layers && workers.count >= stages && (workers.count - 1) / stages < shape.experts
        let topology: Topology
        do {
            topology = try .even(shape: shape, workers: workers, stages: stages)
        } catch {
            #expect(!fits, "seed \(seed): \(error)")
            return
        }
        #expect(fits, "seed \(seed)")
        try topology.validate(for: shape)
        #expect(topology.workers == workers, "seed \(seed)")
        let layerCounts = topology.stages.map(\.layers.count)
        #expect((layerCounts.max() ?? 0) - (layerCounts.min() ?? 0) <= 1, "seed \(seed)")
        for stage in topology.stages {
            #expect(stage.members.flatMap(\.experts).sorted() == Array(0..<shape.experts), "seed \(seed)")
            let counts = stage.members.map(\.experts.count)
            #expect((counts.max() ?? 0) - (counts.min() ?? 0) <= 1, "seed \(seed)")
        }
        #expect(Set(topology.lanes.joined()) == Set(workers), "seed \(seed): every worker is a home")
        #expect(topology.lanes.allSatisfy { $0.count == stages }, "seed \(seed)")
    }

    @Test func evenTopologyOfTheDemo() throws {
        let topology = try Topology.even(
            shape: makeShape(layers: 6, experts: 8), workers: ["a", "b", "c", "d"], stages: 2)
        #expect(topology.stages.map(\.layers) == [0..<3, 3..<6])
        #expect(topology.stages[0].members.map(\.experts) == [[0, 2, 4, 6], [1, 3, 5, 7]])
        #expect(topology.lanes == [["a", "c"], ["b", "d"]])
    }

    @Test func smallerStagesTakeTurnsInLanes() {
        let topology = Topology(stages: [
            .init(layers: 0..<1, members: ["a", "b", "c"].map { .init(name: $0, experts: [0]) }),
            .init(layers: 1..<2, members: ["d", "e"].map { .init(name: $0, experts: [0]) }),
        ])
        #expect(topology.lanes == [["a", "d"], ["b", "e"], ["c", "d"]])
    }

    typealias Stage = Topology.Stage

    private static func member(_ name: String, _ experts: [Int]) -> Topology.Member {
        .init(name: name, experts: experts)
    }

    static let broken: [(code: String, message: String, stages: [Stage])] = [
        ("stages_empty", "no stages", []),
        ("layers_uncovered", "layers 3", [Stage(layers: 0..<3, members: [member("a", [0, 1])])]),
        (
            "layers_uncovered", "next layer to be held is 2",
            [
                Stage(layers: 0..<2, members: [member("a", [0, 1])]),
                Stage(layers: 3..<4, members: [member("b", [0, 1])]),
            ]
        ),
        (
            "layers_overlap", "starts at layer 1",
            [
                Stage(layers: 0..<2, members: [member("a", [0, 1])]),
                Stage(layers: 1..<4, members: [member("b", [0, 1])]),
            ]
        ),
        ("layers_excess", "the model has 4 layers", [Stage(layers: 0..<5, members: [member("a", [0, 1])])]),
        ("layers_empty", "no layers", [Stage(layers: 0..<0, members: [member("a", [0, 1])])]),
        ("workers_empty", "no workers", [Stage(layers: 0..<4, members: [])]),
        ("worker_name", "1 to 64", [Stage(layers: 0..<4, members: [member("", [0, 1])])]),
        ("worker_name", "'/'", [Stage(layers: 0..<4, members: [member("../a", [0, 1])])]),
        ("worker_name", "\"coordinator\"", [Stage(layers: 0..<4, members: [member("coordinator", [0, 1])])]),
        (
            "worker_duplicate", "twice in stage 0",
            [Stage(layers: 0..<4, members: [member("a", [0]), member("a", [1])])]
        ),
        (
            "worker_duplicate", "in stage 0 and in stage 1",
            [
                Stage(layers: 0..<2, members: [member("a", [0, 1])]),
                Stage(layers: 2..<4, members: [member("a", [0, 1])]),
            ]
        ),
        ("expert_unknown", "has 2 experts (0-1)", [Stage(layers: 0..<4, members: [member("a", [0, 1, 2])])]),
        ("expert_order", "expert 0 after 1", [Stage(layers: 0..<4, members: [member("a", [1, 0])])]),
        (
            "expert_unheld", "nobody holds expert 1; add it to a worker of the stage, for example \"a\"",
            [Stage(layers: 0..<4, members: [member("a", [0])])]
        ),
    ]

    @Test(arguments: broken.indices) func errorsNameWhatIsWrong(index: Int) {
        let (code, message, stages) = Self.broken[index]
        let error = #expect(throws: TopologyError.self) {
            try Topology(stages: stages).validate(for: makeShape(layers: 4, experts: 2))
        }
        #expect(error?.code == code)
        #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
    }

    @Test func evenRefusesWhatDoesNotFitWithTheNumbers() {
        let shape = makeShape(layers: 2, experts: 2)
        func code(_ workers: Int, _ stages: Int) -> String? {
            do {
                _ = try Topology.even(shape: shape, workers: (0..<workers).map { "w\($0)" }, stages: stages)
                return nil
            } catch {
                return error.code
            }
        }
        #expect(code(0, 1) == "workers_too_few")
        #expect(code(4, 0) == "stages_empty")
        #expect(code(4, 3) == "stages_excess")
        #expect(code(1, 2) == "workers_too_few")
        #expect(code(5, 2) == "workers_too_many")
        #expect(code(3, 2) == nil)
    }

    // MARK: Files

    private func decode(_ json: String) throws -> Topology {
        try JSONDecoder().decode(Topology.self, from: Data(json.utf8))
    }

    @Test func fileFormsOfNumbers() throws {
        let topology = try decode(
            #"""
            {"stages": [
              {"layers": "0-2", "workers": [{"name": "a", "experts": "0-1,3"}, {"name": "b", "experts": [2]}]},
              {"layers": 3, "workers": [{"name": "c", "experts": "0 - 3"}]}
            ]}
            """#)
        #expect(topology.stages.map(\.layers) == [0..<3, 3..<4])
        #expect(topology.stages[0].members.map(\.experts) == [[0, 1, 3], [2]])
        try topology.validate(for: makeShape(layers: 4, experts: 4))
        let again = try JSONDecoder().decode(Topology.self, from: JSONEncoder().encode(topology))
        #expect(again == topology)
    }

    @Test(arguments: [
        #"{"stages": [{"layer": "0-2", "workers": []}]}"#,
        #"{"stages": [{"layers": "0-2,4", "workers": []}]}"#,
        #"{"stages": [{"layers": "0-99999999999999999999", "workers": []}]}"#,
        #"{"stages": [{"layers": "2-0", "workers": []}]}"#,
        #"{"stages": [{"layers": [], "workers": []}]}"#,
        #"{"stages": [{"layers": [-1], "workers": []}]}"#,
        #"{"stages": [{"layers": 0, "workers": [{"name": "a", "experts": "0,0"}]}]}"#,
        #"{"stages": [{"layers": 0, "workers": [{"name": "a", "experts": "one"}]}]}"#,
        #"{"stages": [{"layers": 9223372036854775807, "workers": []}]}"#,
    ]) func badFilesAreRefused(json: String) {
        #expect(throws: DecodingError.self) { try decode(json) }
    }

    @Test func unknownKeyGetsASuggestion() {
        do {
            _ = try decode(#"{"stages": [{"layer": "0-2", "workers": []}]}"#)
            Issue.record("was taken")
        } catch DecodingError.dataCorrupted(let context) {
            #expect(context.debugDescription == #"stage: unknown key "layer"; did you mean "layers"?"#)
        } catch {
            Issue.record(error)
        }
    }

    // MARK: Memory

    private func makeManifest(blobBytes: Int, layersShareBlobs: Bool = false) throws -> Manifest {
        func blob(_ name: String) -> String { #"{"sha256": "\#(name)", "bytes": \#(blobBytes), "tensors": []}"# }
        let layers = (0..<2).map { index in
            let layer = layersShareBlobs ? 0 : index
            let experts = (0..<2).map { blob("expert-\(layer)-\($0)") }.joined(separator: ", ")
            return #"{"dense": \#(blob("dense-\(layer)")), "experts": [\#(experts)]}"#
        }
        let shape = try JSONEncoder().encode(makeShape(layers: 2, experts: 2))
        let json = #"""
            {"formatVersion": 1, "numericsVersion": 1, "name": "m", "shape": \#(String(decoding: shape, as: UTF8.self)),
            "tokenizer": \#(blob("tokenizer")), "embedding": \#(blob("embedding")), "head": \#(blob("head")),
            "layers": [\#(layers.joined(separator: ", "))]}
            """#
        return try JSONDecoder().decode(Manifest.self, from: Data(json.utf8))
    }

    @Test func memoryIsCheckedWithTheNumbers() throws {
        let capacity = Capacity(manifest: try makeManifest(blobBytes: 1000))
        let topology = try Topology.even(
            shape: makeShape(layers: 2, experts: 2), workers: ["a", "b"], stages: 1)
        // Embedding, head, 2 dense, 1 expert in each of 2 layers; a page of a layer is 2 heads x 16 x 2 x 32 x 2 bytes.
        let weights = 6 * 1000
        let pages = 10 * 2 * 4096
        try capacity.check(topology, pages: 10, memoryBytes: ["a": UInt64(weights + pages), "b": 0])
        let error = #expect(throws: TopologyError.self) {
            try capacity.check(topology, pages: 10, memoryBytes: ["a": UInt64(weights + pages - 1)])
        }
        #expect(error?.code == "memory_insufficient")
        #expect(error?.worker == "a")
        #expect(error?.message.contains("needs 6000 bytes of weights and 81920 of KV pages, but offers 87919") == true)
    }

    @Test("A blob that layers share is in memory once")
    func sharedBlobsCountOnce() throws {
        let capacity = Capacity(manifest: try makeManifest(blobBytes: 1000, layersShareBlobs: true))
        let topology = try Topology.even(
            shape: makeShape(layers: 2, experts: 2), workers: ["a", "b"], stages: 1)
        let need = capacity.required(
            of: topology.stages[0].members[0], stage: topology.stages[0], first: true, last: true, pages: 0)
        // Embedding, head, the dense part and an expert of both layers.
        #expect(need.weights == 4 * 1000)
    }

    @Test("Workers of one machine need their KV pages and resident weights together")
    func memoryOfOneMachine() throws {
        let capacity = Capacity(manifest: try makeManifest(blobBytes: 1000))
        let topology = try Topology.even(
            shape: makeShape(layers: 2, experts: 2), workers: ["a", "b"], stages: 1)
        let pages: UInt64 = 2 * 10 * 2 * 4096
        // Twice embedding, head, 2 dense and an expert in each of 2 layers.
        for (weights, named) in [(12_000, "12000 bytes of weights and "), (0, "")] as [(UInt64, String)] {
            try capacity.checkTogether(
                topology, pages: 10, weightsAreResident: weights > 0, available: weights + pages)
            let error = #expect(throws: TopologyError.self) {
                try capacity.checkTogether(
                    topology, pages: 10, weightsAreResident: weights > 0, available: weights + pages - 1)
            }
            #expect(error?.code == "memory_insufficient")
            #expect(
                error?.message.contains("2 workers need \(named)\(pages) bytes of KV pages, but this machine") == true)
        }
    }

    @Test func enormousSizesDoNotTrap() throws {
        let capacity = Capacity(manifest: try makeManifest(blobBytes: .max))
        let topology = try Topology.even(shape: makeShape(layers: 2, experts: 2), workers: ["a"], stages: 1)
        #expect(throws: TopologyError.self) {
            try capacity.check(topology, pages: .max, memoryBytes: ["a": 1 << 40])
        }
    }
}
