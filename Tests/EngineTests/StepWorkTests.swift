import Engine
import ModelStore
import Testing

@Suite struct StepWorkTests {
    private let model = try? Models.quantised("demo-q8_0.gguf")

    /// Bytes of all blobs but the tokenizer, without what pads their tensors to 64 bytes.
    private func tensorBytes(_ blob: BlobReference) -> Int { blob.tensors.reduce(0) { $0 + $1.bytes } }

    @Test func aRowReadsTheDensePartsAndItsExperts() throws {
        let model = try #require(model)
        let runner = LocalRunner(engine: try model.engine(pages: 4))
        let work = try runner.step(tokens: [5], rows: [AttentionRow(position: 0, pages: [2])], logitRows: [0])
        let manifest = model.manifest
        let shape = manifest.shape
        #expect(work.experts.count == shape.layers * shape.expertsUsed)
        let dense = manifest.layers.reduce(0) { $0 + tensorBytes($1.dense) }
        #expect(work.experts.map(\.layer) == (0..<shape.layers).flatMap { [$0, $0] })
        #expect(work.experts.allSatisfy { $0.weightBytes == tensorBytes(manifest.layers[$0.layer].experts[$0.expert]) })
        #expect(
            work.experts.allSatisfy {
                $0.integerMultiplyAdds == 3 * shape.hidden * shape.feedForward && $0.floatMultiplyAdds == 0
            })
        let experts = manifest.layers.reduce(0) { $0 + tensorBytes($1.experts[0]) * shape.expertsUsed }
        let embedding = try #require(manifest.embedding.tensors.first)
        #expect(
            work.weightBytes
                == dense + experts + tensorBytes(manifest.head) + embedding.format.rowBytes(columns: shape.hidden))
        let token = shape.keyValueHeads * shape.headDimension * 2 * 2
        #expect(work.keyValueBytes == token * shape.layers)
        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        let perLayer =
            shape.hidden * (2 * queries + 2 * keys) + 3 * shape.hidden * shape.feedForward * shape.expertsUsed
        #expect(work.integerMultiplyAdds == perLayer * shape.layers + shape.hidden * shape.vocabulary)
        // The router's matrix, and one query on one key and one value for each head.
        #expect(work.floatMultiplyAdds == (shape.hidden * shape.experts + queries * 2) * shape.layers)
        #expect(work.bytes == work.weightBytes + work.keyValueBytes)
    }

    /// Sixteen rows of sixteen sequences read each expert once; the rows of one sequence read its keys once.
    @Test func whatRowsShareIsReadOnce() throws {
        let model = try #require(model)
        let shape = model.manifest.shape
        let runner = LocalRunner(engine: try model.engine(pages: 16))
        let streams = try runner.step(
            tokens: (0..<16).map { 3 + $0 * 31 }, rows: (0..<16).map { AttentionRow(position: 0, pages: [$0]) },
            logitRows: Array(0..<16))
        #expect(streams.experts.count > shape.layers * shape.expertsUsed)
        #expect(streams.experts.count <= shape.layers * shape.experts)
        let prompt = try runner.step(
            tokens: (0..<16).map { 3 + $0 * 31 }, rows: (0..<16).map { AttentionRow(position: $0, pages: [0]) },
            logitRows: [])
        #expect(prompt.keyValueBytes == streams.keyValueBytes)
        #expect(prompt.floatMultiplyAdds > streams.floatMultiplyAdds)
        #expect(prompt.weightBytes < streams.weightBytes)
    }

    /// The last layer of a prompt: keys and values of all rows, the rest of the row that the next token is read from.
    @Test func theLastLayerComputesWhatIsReadFromIt() throws {
        let model = try #require(model)
        let shape = model.manifest.shape
        func step(_ count: Int, _ logitRows: [Int]) throws -> StepWork {
            let runner = LocalRunner(engine: try model.engine(pages: 16))
            return try runner.step(
                tokens: (0..<Int32(count)).map { 3 + $0 * 31 },
                rows: (0..<count).map { AttentionRow(position: $0, pages: [0]) }, logitRows: logitRows)
        }
        let (one, prompt, nothing) = (try step(1, [0]), try step(16, [15]), try step(16, []))
        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        let keysAndValues = shape.hidden * 2 * keys
        let rest = shape.hidden * 2 * queries + 3 * shape.hidden * shape.feedForward * shape.expertsUsed
        let head = shape.hidden * shape.vocabulary
        #expect(one.integerMultiplyAdds == (keysAndValues + rest) * shape.layers + head)
        #expect(
            prompt.integerMultiplyAdds
                == (keysAndValues * shape.layers + rest * (shape.layers - 1)) * 16 + rest + head)
        #expect(prompt.integerMultiplyAdds - nothing.integerMultiplyAdds == rest + head)
        #expect(prompt.experts.count - nothing.experts.count == shape.expertsUsed)
    }

    @Test func theFloorIsTheLongerOfReadingAndComputing() {
        var work = StepWork()
        work.weightBytes = 60
        work.keyValueBytes = 40
        work.integerMultiplyAdds = 1_000
        work.floatMultiplyAdds = 10
        #expect(work.floorSeconds(bytesPerSecond: 10, integersPerSecond: 1_000, floatsPerSecond: 10) == 10)
        #expect(work.floorSeconds(bytesPerSecond: 100, integersPerSecond: 1_000, floatsPerSecond: 10) == 2)
    }

    /// A sequence on copied pages computes what one on the pages they were copied from does.
    @Test func copiedPagesHoldTheSame() throws {
        let model = try #require(model)
        let runner = LocalRunner(engine: try model.engine(pages: 6))
        let tokens: [Int32] = (0..<64).map { 3 + $0 * 17 % 1500 }
        _ = try runner.step(
            tokens: tokens, rows: (0..<64).map { AttentionRow(position: $0, pages: [0, 1]) }, logitRows: [])
        try runner.copyPages(from: [0, 1], to: [4, 3])
        let rows = [AttentionRow(position: 64, pages: [0, 1, 2]), AttentionRow(position: 64, pages: [4, 3, 5])]
        let logits = RowBuffer(rows: 0, width: runner.engine.shape.vocabulary)
        let hidden = RowBuffer(rows: 0, width: runner.engine.shape.hidden)
        _ = try runner.engine.forward(tokens: [9, 9], rows: rows, hidden: hidden)
        try runner.engine.logits(hidden: hidden, rows: [0, 1], into: logits)
        #expect(bits(logits.row(0)) == bits(logits.row(1)))
    }

    @Test func stepsThatAreWrong() throws {
        let model = try #require(model)
        let runner = LocalRunner(engine: try model.engine(pages: 2))
        let row = AttentionRow(position: 0, pages: [0])
        expect("row_count") { _ = try runner.step(tokens: [1, 2], rows: [row], logitRows: []) }
        expect("row_count") { _ = try runner.step(tokens: [1], rows: [row], logitRows: [1]) }
        for wrong in [[1, 0], [0, 0], [-1], [0, 2]] {
            expect("row_count") { _ = try runner.step(tokens: [1, 2], rows: [row, row], logitRows: wrong) }
        }
        expect("page_range") {
            _ = try runner.step(tokens: [1], rows: [AttentionRow(position: 0, pages: [2])], logitRows: [])
        }
        expect("page_range") { try runner.copyPages(from: [0], to: [2]) }
        expect("page_range") { try runner.copyPages(from: [-1], to: [1]) }
    }

    @Test func instructionSetsHaveNames() throws {
        #expect(InstructionSet.current.name == instructionSetName())
        #expect(InstructionSet.current.isAvailable)
        for set in InstructionSet.all { #expect(InstructionSet(name: set.name) == set) }
        #expect(InstructionSet(name: "sse9") == nil)
        for other in InstructionSet.all where other != .current {
            expect(other.isAvailable ? "isa_settled" : "isa_unavailable") { try InstructionSet.choose(other) }
        }
    }

    @Test func aMachineOutOfFiles() {
        let files = [
            "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Some Processor @ 2 GHz\n",
            "/sys/devices/system/cpu/online": "0-3,8\n",
            "/sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
            "/sys/devices/system/cpu/cpu0/cache/index0/type": "Data\n",
            "/sys/devices/system/cpu/cpu0/cache/index0/size": "48K\n",
            "/sys/devices/system/cpu/cpu0/cache/index1/level": "3\n",
            "/sys/devices/system/cpu/cpu0/cache/index1/type": "Unified\n",
            "/sys/devices/system/cpu/cpu0/cache/index1/size": "260M\n",
            "/proc/meminfo": "MemTotal:       24617940 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n",
            "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "/sys/devices/system/node/node0/cpulist": "0-3\n",
            "/sys/devices/system/node/node1/cpulist": "8\n",
        ]
        let machine = MachineDescription { files[$0] }
        #expect(machine.processor == "Some Processor @ 2 GHz")
        #expect(machine.processors == 5)
        #expect(machine.caches.map(\.bytes) == [48 << 10, 260 << 20])
        #expect(machine.largestCacheBytes == 260 << 20)
        #expect(machine.memoryBytes == 24_617_940 << 10 && machine.availableMemoryBytes == 1 << 20)
        #expect(machine.transparentHugePages == "madvise")
        #expect(machine.nodes == ["0-3", "8"])
        let nothing = MachineDescription { _ in nil }
        #expect(nothing.processor == nil && nothing.caches.isEmpty && nothing.largestCacheBytes == 0)
    }
}
