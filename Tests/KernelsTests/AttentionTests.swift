import CKernels
import Foundation
import Testing

@Suite("Attention over pages")
struct AttentionTests {
    /// A sequence's keys and values in a pool whose pages lie in a random order among others' bytes.
    struct Sequence {
        let kvHeads: Int
        let headDimension: Int
        let keys: [[Float]]
        let values: [[Float]]
        private var pool: [UInt16]
        private let pages: [Int32]
        private let pageBytes: Int

        init(tokens: Int, kvHeads: Int, headDimension: Int, shuffle: UInt64, using generator: inout SeededGenerator) {
            self.kvHeads = kvHeads
            self.headDimension = headDimension
            let keys = (0..<tokens).map { _ in generator.floats(kvHeads * headDimension, spread: 1) }
            let values = (0..<tokens).map { _ in generator.floats(kvHeads * headDimension) }
            self.keys = keys
            self.values = values
            var order = SeededGenerator(seed: shuffle)
            let count = (tokens + 31) / 32
            // One page more than needed; what is never written is NaN and must never be read into a result.
            pages = Array((0...Int32(count)).shuffled(using: &order).prefix(count))
            pageBytes = tk_kv_page_bytes(kvHeads, headDimension)
            pool = [UInt16](repeating: 0x7e00, count: (count + 1) * pageBytes / 2)
            withView { view in
                for token in 0..<tokens {
                    tk_kv_store(TK_ISA_PORTABLE, view, token, keys[token], values[token])
                }
            }
        }

        mutating func withView<Result>(_ body: (UnsafePointer<tk_kv_view>) -> Result) -> Result {
            let (pageBytes, kvHeads, headDimension) = (pageBytes, kvHeads, headDimension)
            return pool.withUnsafeMutableBytes { pool in
                pages.withUnsafeBufferPointer { pages in
                    var view = Self.view(pool, pages, pageBytes, kvHeads, headDimension)
                    return body(&view)
                }
            }
        }

        /// A pool and a page table are never empty here, so they have an address.
        static func view(
            _ pool: UnsafeMutableRawBufferPointer, _ pages: UnsafeBufferPointer<Int32>, _ pageBytes: Int,
            _ kvHeads: Int, _ headDimension: Int
        ) -> tk_kv_view {
            guard let base = pool.baseAddress, let numbers = pages.baseAddress else {
                preconditionFailure("an empty pool")
            }
            return tk_kv_view(
                base: base, page_stride: pageBytes, pages: numbers, kv_heads: kvHeads, head_dim: headDimension)
        }

        mutating func attend(
            _ isa: tk_isa, _ q: [Float], heads: Int, tokens: Int, kvHeads range: Range<Int>? = nil
        ) -> [Float] {
            let range = range ?? 0..<kvHeads
            var out = [Float](repeating: 0, count: heads * headDimension)
            var scratch = [Float](
                repeating: .nan, count: tk_attention_scratch_floats(1, heads, kvHeads, headDimension))
            withView {
                tk_attention(
                    isa, $0, q, 0, 1, heads, tokens, range.lowerBound, range.upperBound, &scratch, &out, 0)
            }
            return out
        }

        /// Rows that follow each other in one call, with room between rows of `q` and of the result.
        mutating func attendTogether(
            _ isa: tk_isa, _ rows: [[Float]], heads: Int, tokens: Int, gap: Int
        ) -> [[Float]] {
            let width = heads * headDimension
            let q = rows.flatMap { $0 + [Float](repeating: .nan, count: gap) }
            var out = [Float](repeating: 7, count: rows.count * (width + gap))
            var scratch = [Float](
                repeating: .nan, count: tk_attention_scratch_floats(rows.count, heads, kvHeads, headDimension))
            let kvHeads = kvHeads
            withView {
                tk_attention(
                    isa, $0, q, width + gap, rows.count, heads, tokens, 0, kvHeads, &scratch, &out, width + gap)
            }
            return rows.indices.map { row in
                let begin = row * (width + gap)
                #expect(out[begin + width..<begin + width + gap].allSatisfy { $0 == 7 })
                return Array(out[begin..<begin + width])
            }
        }

        mutating func attendInSpans(_ isa: tk_isa, _ q: [Float], heads: Int, tokens: Int) -> [Float] {
            let group = heads / kvHeads
            let record = tk_partial_floats(headDimension)
            let spans = tk_span_count(tokens)
            let headDimension = headDimension
            let kvHeads = kvHeads
            var out: [Float] = []
            withView { view in
                for head in 0..<kvHeads {
                    var partials = [Float](repeating: .nan, count: spans * group * record)
                    // The last first: spans do not depend on each other.
                    for span in (0..<spans).reversed() {
                        var scratch = [Float](repeating: .nan, count: group * TK_SPAN_TOKENS)
                        partials.withUnsafeMutableBufferPointer { partials in
                            guard let base = partials.baseAddress else { return }
                            tk_attention_span(
                                isa, view, q, heads, tokens, head, span, &scratch, base + span * group * record)
                        }
                    }
                    var some = [Float](repeating: 0, count: group * headDimension)
                    tk_attention_merge(isa, &partials, spans, group, headDimension, &some)
                    out += some
                }
            }
            return out
        }
    }

    struct Shape: Sendable, CustomStringConvertible {
        var heads: Int
        var kvHeads: Int
        var headDimension: Int
        var description: String { "\(heads)/\(kvHeads)x\(headDimension)" }
    }

    static let shapes = [
        Shape(heads: 8, kvHeads: 2, headDimension: 32),
        Shape(heads: 6, kvHeads: 1, headDimension: 16),
        Shape(heads: 3, kvHeads: 3, headDimension: 10),
        Shape(heads: 14, kvHeads: 2, headDimension: 64),
        // More query heads than a tile takes, and dimensions that fill one vector of each set but not two.
        Shape(heads: 13, kvHeads: 1, headDimension: 48),
        Shape(heads: 10, kvHeads: 2, headDimension: 58),
    ]

    @Test("Rows of one sequence that share its pages get what each gets alone", arguments: shapes)
    func rowsTogether(shape: Shape) {
        var generator = SeededGenerator(seed: 31)
        var sequence = Sequence(
            tokens: 1_030, kvHeads: shape.kvHeads, headDimension: shape.headDimension, shuffle: 3, using: &generator)
        let rows = (0..<7).map { _ in generator.floats(shape.heads * shape.headDimension, spread: 1) }
        // The first rows see nothing of the last page, or of the last span.
        for tokens in [1, 29, 61, 509, 512, 1_021] {
            let alone = rows.indices.map {
                bits(sequence.attend(TK_ISA_PORTABLE, rows[$0], heads: shape.heads, tokens: tokens + $0))
            }
            for isa in availableSets {
                let together = sequence.attendTogether(isa, rows, heads: shape.heads, tokens: tokens, gap: 3)
                #expect(together.map { bits($0) } == alone, "\(name(isa)) \(shape) \(tokens)")
            }
        }
    }

    @Test("Every set gives the portable bits, which are the canonical ones", arguments: shapes)
    func sameBits(shape: Shape) {
        var generator = SeededGenerator(seed: UInt64(shape.heads))
        let longest = 1_060
        var sequence = Sequence(
            tokens: longest, kvHeads: shape.kvHeads, headDimension: shape.headDimension, shuffle: 1, using: &generator)
        let q = generator.floats(shape.heads * shape.headDimension, spread: 1)
        for tokens in [1, 2, 16, 31, 32, 33, 100, 511, 512, 513, 1_024, longest] {
            let expected = sequence.attend(TK_ISA_PORTABLE, q, heads: shape.heads, tokens: tokens)
            #expect(!expected.contains { $0.isNaN }, "\(shape) \(tokens)")
            for isa in vectorSets {
                let found = sequence.attend(isa, q, heads: shape.heads, tokens: tokens)
                #expect(bits(found) == bits(expected), "\(name(isa)) \(shape) \(tokens)")
            }
            if tokens % 2 == 0 {
                let canonical = Self.canonical(sequence, q, shape, head: 0, tokens: tokens)
                #expect(bits(Array(expected[0..<shape.headDimension])) == bits(canonical), "\(shape) \(tokens)")
            }
        }
    }

    @Test("What weighs less than exp(-69) weighs nothing, in a span and between spans", arguments: [3, 40] as [Float])
    func farApart(spread: Float) {
        var generator = SeededGenerator(seed: 3)
        let shape = Shape(heads: 4, kvHeads: 1, headDimension: 32)
        let tokens = 1_100
        var sequence = Sequence(
            tokens: tokens, kvHeads: shape.kvHeads, headDimension: shape.headDimension, shuffle: 1, using: &generator)
        let q = generator.floats(shape.heads * shape.headDimension).map { $0 * 20 * spread }
        let expected = Self.canonical(sequence, q, shape, head: 0, tokens: tokens)
        for isa in availableSets {
            let found = sequence.attend(isa, q, heads: shape.heads, tokens: tokens)
            #expect(bits(Array(found[0..<shape.headDimension])) == bits(expected), "\(name(isa))")
        }
    }

    /// The canonical order of the header, one number at a time.
    static func canonical(_ sequence: Sequence, _ q: [Float], _ shape: Shape, head: Int, tokens: Int) -> [Float] {
        let n = shape.headDimension
        let kvHead = head / (shape.heads / shape.kvHeads)
        func half(_ x: Float) -> Float {
            var narrow: UInt16 = 0
            var wide: Float = 0
            tk_f32_to_f16(TK_ISA_PORTABLE, [x], 1, &narrow)
            tk_f16_to_f32(TK_ISA_PORTABLE, [narrow], 1, &wide)
            return wide
        }
        func weight(_ x: Float) -> Float {
            if x < -69 { return 0 }
            var y: Float = 0
            tk_exp(TK_ISA_PORTABLE, [x], 1, &y)
            return y
        }
        var total: (m: Float, l: Float, o: [Float])?
        for begin in stride(from: 0, to: tokens, by: 512) {
            let range = begin..<min(tokens, begin + 512)
            let scores = range.map { t in
                var dot: Float = 0
                for d in 0..<n { dot = dot.addingProduct(q[head * n + d], half(sequence.keys[t][kvHead * n + d])) }
                return dot * (1 / Float(n).squareRoot())
            }
            let m = scores.max() ?? 0
            let p = scores.map { weight($0 - m) }
            let l = RowTests.stridedSum(p)
            var o = [Float](repeating: 0, count: n)
            for (index, t) in range.enumerated() {
                for d in 0..<n { o[d] = o[d].addingProduct(p[index], half(sequence.values[t][kvHead * n + d])) }
            }
            guard let old = total else {
                total = (m, l, o)
                continue
            }
            let both = max(old.m, m)
            let (c, other) = (weight(old.m - both), weight(m - both))
            let weighted = l * other
            let merged = zip(old.o, o).map { a, b in
                let product = b * other
                return product.addingProduct(a, c)
            }
            total = (both, weighted.addingProduct(old.l, c), merged)
        }
        return total.map { total in total.o.map { $0 / total.l } } ?? []
    }

    @Test("It is softmax attention", arguments: shapes)
    func matchesDouble(shape: Shape) {
        var generator = SeededGenerator(seed: 9)
        let tokens = 600
        var sequence = Sequence(
            tokens: tokens, kvHeads: shape.kvHeads, headDimension: shape.headDimension, shuffle: 2, using: &generator)
        let q = generator.floats(shape.heads * shape.headDimension, spread: 1)
        let out = sequence.attend(tk_isa_best(), q, heads: shape.heads, tokens: tokens)
        let n = shape.headDimension
        for head in 0..<shape.heads {
            let kvHead = head / (shape.heads / shape.kvHeads)
            let root = Double(n).squareRoot()
            var scores = [Double](repeating: 0, count: tokens)
            for t in 0..<tokens {
                for d in 0..<n {
                    scores[t] += Double(q[head * n + d]) * Double(sequence.keys[t][kvHead * n + d]) / root
                }
            }
            let largest = scores.max() ?? 0
            let p = scores.map { exp($0 - largest) }
            let sum = p.reduce(0, +)
            var worst = 0.0
            for d in 0..<n {
                var truth = 0.0
                for t in 0..<tokens { truth += p[t] * Double(sequence.values[t][kvHead * n + d]) / sum }
                worst = max(worst, abs(Double(out[head * n + d]) - truth))
            }
            #expect(worst < 2e-3, "\(shape) head \(head)")
        }
    }

    @Test(
        "Neither the pages' places, nor later tokens, nor who computes which head or span changes a bit",
        arguments: shapes)
    func invariance(shape: Shape) {
        let lengths = [40, 512, 1_060]
        for isa in availableSets {
            var results: [[UInt32]] = []
            for shuffle: UInt64 in [1, 2] {
                var generator = SeededGenerator(seed: 13)
                let q = generator.floats(shape.heads * shape.headDimension, spread: 1)
                var sequence = Sequence(
                    tokens: 1_060, kvHeads: shape.kvHeads, headDimension: shape.headDimension, shuffle: shuffle,
                    using: &generator)
                var all: [UInt32] = []
                for tokens in lengths {
                    let whole = sequence.attend(isa, q, heads: shape.heads, tokens: tokens)
                    let spans = sequence.attendInSpans(isa, q, heads: shape.heads, tokens: tokens)
                    #expect(bits(whole) == bits(spans), "\(name(isa)) \(shape) \(tokens)")
                    var byHead = [Float](repeating: 0, count: whole.count)
                    for head in 0..<shape.kvHeads {
                        let some = sequence.attend(
                            isa, q, heads: shape.heads, tokens: tokens, kvHeads: head..<head + 1)
                        byHead = zip(byHead, some).map(+)
                    }
                    #expect(byHead == whole, "\(name(isa)) \(shape) \(tokens)")
                    all += bits(whole)
                }
                results.append(all)
            }
            #expect(results.allSatisfy { $0 == results[0] }, "\(name(isa)) \(shape)")
        }
    }

    @Test("A single token's attention is its value; heads that share a page each get their own")
    func oneToken() {
        var generator = SeededGenerator(seed: 21)
        var sequence = Sequence(tokens: 1, kvHeads: 2, headDimension: 16, shuffle: 1, using: &generator)
        let q = generator.floats(4 * 16)
        let expected = [0, 0, 1, 1].flatMap { head in
            sequence.values[0][head * 16..<(head + 1) * 16].map { value in
                var narrow: UInt16 = 0
                var wide: Float = 0
                tk_f32_to_f16(TK_ISA_PORTABLE, [value], 1, &narrow)
                tk_f16_to_f32(TK_ISA_PORTABLE, [narrow], 1, &wide)
                return wide
            }
        }
        for isa in availableSets {
            #expect(sequence.attend(isa, q, heads: 4, tokens: 1) == expected)
        }
    }

    @Test("Every set stores the same bytes in the layout of the header", arguments: availableSets)
    func layout(isa: tk_isa) {
        let (kvHeads, headDimension, position) = (2, 10, 37)
        let keys = (0..<20).map { Float($0 + 1) }
        let values = (0..<20).map { Float($0 + 101) }
        let pageBytes = tk_kv_page_bytes(kvHeads, headDimension)
        #expect(pageBytes == 2 * 2 * 10 * 32 * 2)
        var pool = [UInt16](repeating: 0, count: 2 * pageBytes / 2)
        let pages: [Int32] = [1, 0]
        pool.withUnsafeMutableBytes { pool in
            pages.withUnsafeBufferPointer { pages in
                var view = Sequence.view(pool, pages, pageBytes, kvHeads, headDimension)
                tk_kv_store(isa, &view, position, keys, values)
            }
        }
        var floats = [Float](repeating: 0, count: pool.count)
        tk_f16_to_f32(TK_ISA_PORTABLE, pool, pool.count, &floats)
        for head in 0..<kvHeads {
            for d in 0..<headDimension {
                #expect(floats[head * 640 + d * 32 + 5] == keys[head * 10 + d])
                #expect(floats[head * 640 + 320 + 5 * 10 + d] == values[head * 10 + d])
            }
        }
        #expect(floats.filter { $0 != 0 }.count == 40)
    }
}
