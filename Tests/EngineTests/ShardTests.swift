import Engine
import ModelStore
import TestSupport
import Testing

/// What a shard maps, and what it refuses.
@Suite struct ShardTests {
    @Test func onlyTheShardsBlobsAreMapped() throws {
        let model = try Models.demo.get()
        let manifest = model.manifest
        let shard = ShardSpec(layers: 2..<4, experts: [1, 6], embedding: false, head: true)
        let engine = try model.engine(pages: 3, shard: shard)
        let needed =
            [manifest.head]
            + (2..<4).flatMap { layer in
                [manifest.layers[layer].dense] + [1, 6].map { manifest.layers[layer].experts[$0] }
            }
        #expect(engine.mappedBlobs == needed.map(\.sha256).sorted())
        #expect(engine.weightBytes == needed.reduce(0) { $0 + $1.bytes })
        // Two layers, two KV heads, keys and values of 32 dimensions in f16, 32 tokens.
        #expect(engine.pageBytes == 2 * 2 * 2 * 32 * 2 * 32)
    }

    @Test func loadingEndsBeforeTheBlobThatIsNotWantedAnyMore() throws {
        struct Unwanted: Error {}
        let model = try Models.demo.get()
        var asked = 0
        #expect(throws: Unwanted.self) {
            _ = try Engine(
                manifest: model.manifest, store: model.store, shard: .whole(model.manifest.shape), pages: 1, threads: 1,
                beforeEachBlob: {
                    asked += 1
                    if asked == 3 { throw Unwanted() }
                })
        }
        #expect(asked == 3)
    }

    @Test func layersAndExpertsOfOthersAreRefused() throws {
        let model = try Models.demo.get()
        let engine = try model.engine(
            pages: 3, shard: ShardSpec(layers: 2..<4, experts: [1], embedding: false, head: false))
        let hidden = RowBuffer(rows: 1, width: engine.shape.hidden)
        hidden.row(0).update(repeating: 0.5)
        let wide = RowBuffer(rows: 1, width: engine.shape.vocabulary)
        let batch = try engine.batch([AttentionRow(position: 0, pages: [0])])
        let routed = try engine.route(layer: 2, hidden: hidden)
        let rows = [routed.encodedRow(0)]
        expect("not_held") { try engine.embed([1], into: hidden) }
        expect("not_held") { try engine.logits(hidden: hidden, rows: [0], into: wide) }
        for layer in [-1, 0, 4, Int.max] {
            expect("not_held") { try engine.attention(layer: layer, batch: batch, hidden: hidden) }
            expect("not_held") { _ = try engine.route(layer: layer, hidden: hidden) }
        }
        expect("not_held") { try engine.expert(layer: 2, expert: 0, rows: rows, format: routed.format, into: hidden) }
        expect("expert_range") {
            try engine.expert(layer: 2, expert: 8, rows: rows, format: routed.format, into: hidden)
        }
        expect("expert_range") {
            try engine.expert(layer: 2, expert: -1, rows: rows, format: routed.format, into: hidden)
        }
        expect("row_format") { try engine.expert(layer: 2, expert: 1, rows: rows, format: .a8_256, into: hidden) }
        expect("row_count") { try engine.attention(layer: 2, batch: batch, hidden: wide) }
        expect("row_count") { _ = try engine.route(layer: 2, hidden: wide) }
    }

    @Test func shardsThatNoModelHas() throws {
        let model = try Models.demo.get()
        func engine(_ layers: Range<Int>, _ experts: Set<Int>, pages: Int = 1) throws {
            _ = try model.engine(
                pages: pages, shard: ShardSpec(layers: layers, experts: experts, embedding: false, head: false))
        }
        expect("layer_range") { try engine(5..<7, []) }
        expect("layer_range") { try engine(-1..<2, []) }
        expect("expert_range") { try engine(0..<1, [8]) }
        expect("expert_range") { try engine(0..<1, [-1]) }
        expect("page_range") { try engine(0..<1, [], pages: -1) }
        expect("page_range") { try engine(0..<1, [], pages: Int.max) }
    }

    @Test func tokensPositionsAndPagesAreChecked() throws {
        let engine = try Models.demo.get().engine(pages: 3)
        let hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
        for token in [-1, Int32(engine.shape.vocabulary), .max, .min] {
            expect("token_range") { try engine.embed([1, token], into: hidden) }
        }
        func batch(_ position: Int, _ pages: PageTable) throws {
            _ = try engine.batch([
                AttentionRow(position: 0, pages: [0]), AttentionRow(position: position, pages: pages),
            ])
        }
        for position in [-1, 32, Int.max, Int.min] { expect("position_range") { try batch(position, [0]) } }
        expect("position_range") { try batch(0, []) }
        expect("position_range") { try batch(engine.shape.contextLength, PageTable(repeating: 0, count: 100)) }
        for page in [-1, 3, Int32.max] { expect("page_range") { try batch(33, [0, page]) } }
        try engine.embed([1], into: hidden)
        let logits = RowBuffer(rows: 0, width: engine.shape.vocabulary)
        expect("row_count") { try engine.logits(hidden: hidden, rows: [1], into: logits) }
        expect("row_count") { try engine.logits(hidden: hidden, rows: [-1], into: logits) }
        try engine.logits(hidden: hidden, rows: [], into: logits)
        #expect(logits.rows == 0)
    }

    /// A row of NaN goes through everything, ends in a refusal to sample, and leaves its neighbour alone.
    @Test(arguments: ["demo-bf16.gguf", "demo-q8_0.gguf", "demo-q4_k_m.gguf"])
    func notANumber(file: String) throws {
        let engine = try Models.quantised(file).engine(threads: 2)
        let shape = engine.shape
        let hidden = RowBuffer(rows: 0, width: shape.hidden)
        let logits = RowBuffer(rows: 0, width: shape.vocabulary)
        var expected: [UInt32] = []
        for poisoned in [false, true] {
            try engine.embed([9, 5, 7], into: hidden)
            if poisoned {
                hidden.row(0).update(repeating: .nan)
                hidden[2][3] = .infinity
            }
            let batch = try engine.batch((0..<3).map { AttentionRow(position: 0, pages: [Int32($0)]) })
            for layer in 0..<shape.layers {
                try engine.attention(layer: layer, batch: batch, hidden: hidden)
                try engine.mixture(layer: layer, hidden: hidden)
            }
            try engine.logits(hidden: hidden, rows: [0, 1, 2], into: logits)
            if poisoned { #expect(bits(logits.row(1)) == expected) }
            expected = bits(logits.row(1))
            var sampler = Sampler()
            #expect((sampler.sample(logits: logits.row(0), parameters: .greedy, position: 1) == nil) == poisoned)
        }
    }

    /// Rows of any bytes, at any address.
    @Test(arguments: ["demo-bf16.gguf", "demo-q8_0.gguf", "demo-q4_k_m.gguf"])
    func rowsOfAnyBytes(file: String) throws {
        let seed: UInt64 = 61
        var random = SeededGenerator(seed: seed)
        let engine = try Models.quantised(file).engine()
        let format = engine.expertInput[0]
        let bytes = (0..<format.rowBytes(columns: engine.shape.hidden) * 4 + 1).map { _ in
            UInt8.random(in: 0...255, using: &random)
        }
        let outputs = RowBuffer(rows: 0, width: engine.shape.hidden)
        try bytes.withUnsafeBytes { bytes in
            let base = try #require(bytes.baseAddress)
            let rows = (0..<4).map { base + 1 + $0 * format.rowBytes(columns: engine.shape.hidden) }
            let groups = [ExpertRows(expert: 7, rows: 0..<3), ExpertRows(expert: 2, rows: 3..<4)]
            try engine.experts(layer: 0, groups: groups, rows: rows, format: format, into: outputs)
            expect("row_count") {
                let beyond = [ExpertRows(expert: 7, rows: 2..<5)]
                try engine.experts(layer: 0, groups: beyond, rows: rows, format: format, into: outputs)
            }
        }
        #expect(outputs.rows == 4)
    }
}

/// Expects the engine's refusal with a code.
func expect(_ code: String, _ body: () throws -> Void) {
    #expect { try body() } throws: { ($0 as? EngineError)?.code == code }
}
