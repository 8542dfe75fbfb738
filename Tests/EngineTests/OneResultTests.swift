import Engine
import ModelStore
import TestSupport
import Testing

/// The same tokens give the same bits, however the work is cut.
@Suite struct OneResultTests {
    static let files = ["demo-bf16.gguf", "demo-q8_0.gguf", "demo-q4_k_m.gguf"]

    private func ids(_ count: Int, seed: UInt64) -> [Int32] {
        var random = SeededGenerator(seed: seed)
        return [1] + (1..<count).map { _ in Int32.random(in: 3..<1536, using: &random) }
    }

    @Test(arguments: files)
    func threadsChunksAndPages(file: String) throws {
        let model = try Models.quantised(file)
        let ids = ids(75, seed: 11)
        let expected = try model.runner().score(ids: ids, top: 8, prefillChunk: 1000).bits
        for threads in [1, 2] {
            for chunk in [1, 7, 32] {
                let score = try model.runner(threads: threads).score(ids: ids, top: 8, prefillChunk: chunk)
                #expect(score.bits == expected, "\(threads) threads, chunks of \(chunk)")
            }
        }
        let shuffled = LocalRunner(engine: try model.engine(threads: 2), pages: [63, 5, 0, 17])
        #expect(try shuffled.score(ids: ids, top: 8, prefillChunk: 32).bits == expected)
    }

    /// Spans of 512 tokens merge: the context is longer than one.
    @Test func longContexts() throws {
        let model = try Models.demo.get()
        let ids = ids(1100, seed: 12)
        let expected = try model.runner().score(ids: ids, top: 1, prefillChunk: 2000).bits
        #expect(try model.runner(threads: 2).score(ids: ids, top: 1, prefillChunk: 333).bits == expected)
    }

    /// One row with a long context: threads share its spans.
    @Test func sharedSpans() throws {
        let model = try Models.demo.get()
        let ids = ids(1300, seed: 14)
        let expected = try model.runner().score(ids: ids, top: 0).lastLogits.map(\.bitPattern)
        let engine = try model.engine(threads: 4)
        let last = ids.count - 1
        #expect(
            !AttentionWork(
                positions: [last], follows: [false], keyValueHeads: engine.shape.keyValueHeads, threads: engine.threads
            ).longRows.isEmpty)
        let pages = (0..<Int32(engine.pages)).map { $0 }
        let hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
        _ = try engine.forward(
            tokens: Array(ids.dropLast()), rows: (0..<last).map { AttentionRow(position: $0, pages: pages) },
            hidden: hidden)
        _ = try engine.forward(
            tokens: [ids[last]], rows: [AttentionRow(position: last, pages: pages)], hidden: hidden)
        let logits = RowBuffer(rows: 0, width: engine.shape.vocabulary)
        try engine.logits(hidden: hidden, rows: [0], into: logits)
        #expect(bits(logits.row(0)) == expected)
    }

    @Test func generationsDoNotDependOnChunksOrThreads() throws {
        let model = try Models.quantised("demo-q4_0.gguf")
        for temperature in [Float(0), 0.8] {
            let parameters = SamplingParameters(temperature: temperature, topK: 50, topP: 0.95, seed: 99)
            let prompt = ids(40, seed: 13)
            let outputs = try [(1, 1), (2, 7), (1, 500)].map { threads, chunk in
                try model.runner(threads: threads).generate(
                    prompt: prompt, parameters: parameters, maxTokens: 20, prefillChunk: chunk
                ).ids
            }
            #expect(outputs.allSatisfy { $0 == outputs[0] } && !outputs[0].isEmpty)
        }
    }

    /// Decode rows and prompts of several sequences in the same steps, against each sequence alone.
    @Test(arguments: files)
    func amongOtherSequences(file: String) throws {
        let model = try Models.quantised(file)
        let seed: UInt64 = 31
        var random = SeededGenerator(seed: seed)
        let sequences = (0..<4).map { ids(20 + 9 * $0, seed: 100 + UInt64($0)) }
        let alone = try sequences.map { try model.runner().score(ids: $0, top: 0).lastLogits.map(\.bitPattern) }

        let engine = try model.engine(threads: 2)
        let pages = Array(Int32(0)..<Int32(engine.pages)).shuffled(using: &random)
        let hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
        let logits = RowBuffer(rows: 0, width: engine.shape.vocabulary)
        var done = sequences.map { _ in 0 }
        while done.indices.contains(where: { done[$0] < sequences[$0].count }) {
            var tokens: [Int32] = []
            var rows: [AttentionRow] = []
            var last: [(sequence: Int, row: Int)] = []
            for index in sequences.indices.shuffled(using: &random) where done[index] < sequences[index].count {
                let table = Array(pages[index * 2..<index * 2 + 2])
                for _ in 0..<min(Int.random(in: 1...9, using: &random), sequences[index].count - done[index]) {
                    tokens.append(sequences[index][done[index]])
                    rows.append(AttentionRow(position: done[index], pages: table))
                    done[index] += 1
                }
                if done[index] == sequences[index].count { last.append((index, rows.count - 1)) }
            }
            // What is not wanted after the last layer changes nothing of what is, now and in later steps.
            let ending = Bool.random(using: &random) ? last.map(\.row) : nil
            _ = try engine.forward(tokens: tokens, rows: rows, ending: ending, hidden: hidden)
            try engine.logits(hidden: hidden, rows: last.map(\.row)[...], into: logits)
            for (place, end) in last.enumerated() {
                #expect(bits(logits.row(place)) == alone[end.sequence], "seed \(seed), sequence \(end.sequence)")
            }
        }
    }

    /// An expert's rows one by one, all at once, or in groups of any sizes.
    @Test(arguments: files)
    func rowsOfAnExpertInAnyCompany(file: String) throws {
        let engine = try Models.quantised(file).engine(threads: 2)
        let seed: UInt64 = 41
        var random = SeededGenerator(seed: seed)
        let hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
        try engine.embed(ids(37, seed: seed), into: hidden)
        for layer in [0, engine.shape.layers - 1] {
            let routed = try engine.route(layer: layer, hidden: hidden)
            let rows = (0..<routed.rows).map { routed.encodedRow($0) }
            let together = RowBuffer(rows: 0, width: engine.shape.hidden)
            try engine.expert(layer: layer, expert: 3, rows: rows, format: routed.format, into: together)
            var order = Array(rows.indices).shuffled(using: &random)
            while !order.isEmpty {
                let group = Array(order.prefix(Int.random(in: 1...8, using: &random)))
                order.removeFirst(group.count)
                let apart = RowBuffer(rows: 0, width: engine.shape.hidden)
                try engine.expert(
                    layer: layer, expert: 3, rows: group.map { rows[$0] }, format: routed.format, into: apart)
                for (place, row) in group.enumerated() {
                    #expect(
                        bits(apart.row(place)) == bits(together.row(row)), "seed \(seed), layer \(layer), row \(row)")
                }
            }
        }
    }

    /// Two stages of two workers each, played by four engines, against one engine.
    @Test(arguments: files)
    func shardsTogetherAreTheWhole(file: String) throws {
        let model = try Models.quantised(file)
        let ids = ids(33, seed: 51)
        let expected = try model.runner().score(ids: ids, top: 0).lastLogits

        let shape = model.manifest.shape
        let stages = [0..<shape.layers / 2, shape.layers / 2..<shape.layers]
        let experts: [Set<Int>] = [[0, 2, 5, 6], [1, 3, 4, 7]]
        let hidden = RowBuffer(rows: 0, width: shape.hidden)
        var hosts: [Engine] = []
        for (stage, layers) in stages.enumerated() {
            hosts = try experts.map {
                try model.engine(
                    pages: 4,
                    shard: ShardSpec(layers: layers, experts: $0, embedding: stage == 0, head: stage == 1))
            }
            let home = hosts[0]
            if stage == 0 { try home.embed(ids, into: hidden) }
            let batch = try home.batch(ids.indices.map { AttentionRow(position: $0, pages: [3, 1]) })
            for layer in layers {
                try home.attention(layer: layer, batch: batch, hidden: hidden)
                let routed = try home.route(layer: layer, hidden: hidden)
                for row in 0..<routed.rows {
                    let outputs = try routed.route(row).experts.map { expert in
                        let output = RowBuffer(rows: 0, width: shape.hidden)
                        let host = try #require(hosts.first { $0.shard.experts.contains(expert) })
                        try host.expert(
                            layer: layer, expert: expert, rows: [routed.encodedRow(row)], format: routed.format,
                            into: output)
                        return output
                    }
                    let pointers = outputs.map { UnsafePointer($0[0]) }
                    try pointers.withUnsafeBufferPointer {
                        try home.combine(hidden: hidden, row: row, routed: routed, outputs: $0)
                    }
                    withExtendedLifetime(outputs) {}
                }
            }
        }
        let logits = RowBuffer(rows: 0, width: shape.vocabulary)
        try hosts[0].logits(hidden: hidden, rows: [ids.count - 1], into: logits)
        #expect(bits(logits.row(0)) == bits(expected))
    }

    /// Where a layer's experts want different encodings, rows travel as floats and each expert encodes them: to the bit as
    /// the home would have.
    @Test func expertsOfDifferentFormats() throws {
        let model = try Models.quantised("demo-q8_0.gguf")
        var manifest = model.manifest
        manifest.layers[0].experts[5] = try Models.quantised("demo-q4_k-pure.gguf").manifest.layers[0].experts[5]
        let mixed = Models.Imported(manifest: manifest, store: model.store)
        let engines = [try model.engine(), try mixed.engine()]
        #expect(engines.map { $0.expertInput[0] } == [.a8_32, .f32])
        #expect(engines[1].expertInput[1] == .a8_32)
        let outputs = try engines.map { engine in
            let hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
            let output = RowBuffer(rows: 0, width: engine.shape.hidden)
            try engine.embed(ids(9, seed: 71), into: hidden)
            let routed = try engine.route(layer: 0, hidden: hidden)
            try engine.expert(
                layer: 0, expert: 2, rows: (0..<9).map { routed.encodedRow($0) }, format: routed.format, into: output)
            return (0..<9).map { bits(output.row($0)) }
        }
        #expect(outputs[0] == outputs[1])
        let text = ids(40, seed: 72)
        let difference =
            try model.runner().score(ids: text, top: 0).meanNLL - mixed.runner().score(ids: text, top: 0).meanNLL
        #expect(abs(difference) < 0.05)
    }
}
