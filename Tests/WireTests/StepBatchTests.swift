import NIOCore
import SwiftProtobuf
import TestSupport
import Testing

@testable import Wire

/// SwiftProtobuf is the oracle: what it writes is read, and what is written it reads.
@Suite struct StepBatchTests {
    private static func step(seed: UInt64) -> ProtoStep {
        var random = SeededGenerator(seed: seed)
        func chance(_ of: Int) -> Bool { Int.random(in: 0..<of, using: &random) == 0 }
        func number() -> UInt64 {
            UInt64.random(in: 0...UInt64.max, using: &random) >> UInt64.random(in: 0...63, using: &random)
        }
        var step = ProtoStep()
        step.stepID = number()
        step.lane = UInt32(truncatingIfNeeded: number())
        step.class =
            chance(2) ? .decode : chance(2) ? .prefill : .UNRECOGNIZED(Int(Int32(truncatingIfNeeded: number())))
        step.tableSequence = number()
        step.wholeTables = chance(2)
        step.released = (0..<Int.random(in: 0...4, using: &random)).map { _ in number() }
        for _ in 0..<Int.random(in: 0...6, using: &random) {
            var rows = ProtoSequenceRows()
            rows.sequence = number()
            rows.position = UInt32(truncatingIfNeeded: number())
            rows.tokens = (0..<Int.random(in: 0...40, using: &random)).map { _ in Int32(truncatingIfNeeded: number()) }
            rows.pages = (0..<Int.random(in: 0...3, using: &random)).map { _ in UInt32(truncatingIfNeeded: number()) }
            rows.sample = chance(2)
            if chance(3) {
                rows.sampling.temperature = 0.5
                rows.sampling.seed = number()
                rows.sampling.logitBias = [
                    .with {
                        $0.token = 3; $0.bias = -1
                    }
                ]
            }
            if chance(3) {
                rows.score.top = 4
                rows.score.targets = [1, -1]
            }
            step.rows.append(rows)
        }
        if chance(3) {
            step.scoreRoutes = [
                .with {
                    $0.sequence = number(); $0.routes = [.with { $0.experts = [1, 2] }]
                }
            ]
        }
        if chance(3) {
            step.failures = [
                .with {
                    $0.sequence = number(); $0.failure.code = "not_finite"
                }, ProtoSequenceFailure(),
            ]
        }
        return step
    }

    private static func expectEqual(_ batch: StepBatch, _ step: ProtoStep) {
        #expect(batch.stepID == step.stepID)
        #expect(batch.lane == step.lane)
        #expect(batch.workClass == step.class)
        #expect(batch.tableSequence == step.tableSequence)
        #expect(batch.wholeTables == step.wholeTables)
        #expect(batch.released == step.released)
        #expect(batch.scoreRoutes == step.scoreRoutes)
        #expect(batch.failures == step.failures)
        #expect(batch.rows.count == step.rows.count)
        for (rows, message) in zip(batch.rows, step.rows) {
            #expect(rows.sequence == message.sequence)
            #expect(rows.position == message.position)
            #expect(Array(batch.tokens[rows.tokens]) == message.tokens)
            #expect(Array(batch.pages[rows.pages]) == message.pages)
            #expect(rows.sample == message.sample)
            #expect(rows.sampling.map { batch.sampling[$0] } == (message.hasSampling ? message.sampling : nil))
            #expect(batch.score(of: rows) == (message.hasScore ? message.score : nil))
        }
    }

    @Test func isReadAndWrittenAsTheLibraryDoes() throws {
        // One batch for all: nothing of a step is left in the next.
        var batch = StepBatch()
        for seed in 0..<300 as Range<UInt64> {
            let step = Self.step(seed: seed)
            try batch.read(step.wireBytes(), in: .step)
            Self.expectEqual(batch, step)
            #expect(batch.rowCount == step.rows.reduce(0) { $0 + $1.tokens.count })
            var buffer = ByteBuffer(string: "before")
            batch.write(into: &buffer)
            buffer.moveReaderIndex(forwardBy: 6)
            #expect(try ProtoStep(wireBytes: buffer, in: .step) == step, "seed \(seed)")
        }
    }

    @Test func fieldsMayComeInPiecesAndUnknownOnesAreSkipped() throws {
        // SequenceRows: a token unpacked, two packed, sampling in two parts, an unknown field of each wire type.
        let rows: [UInt8] =
            [0x18, 5, 0x1A, 2, 6, 7, 0x2A, 5, 0x0D, 0, 0, 0, 0x3F, 0x2A, 2, 0x28, 9]
            + [0x78, 1, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7A, 1, 0, 0x7D, 0, 0, 0, 0]
        let bytes: [UInt8] = [0x08, 1, 0x08, 2, 0x30, 4, 0x32, 1, 5, 0x3A, UInt8(rows.count)] + rows
        let step = try ProtoStep(wireBytes: ByteBuffer(bytes: bytes), in: .step)
        #expect(step.stepID == 2 && step.released == [4, 5] && step.rows.first?.tokens == [5, 6, 7])
        #expect(step.rows.first?.sampling.temperature == 0.5)
        var batch = StepBatch()
        try batch.read(ByteBuffer(bytes: bytes), in: .step)
        Self.expectEqual(batch, step)
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func noiseIsRefusedOrReadAsTheLibraryDoes(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<20 {
            var bytes = Self.step(seed: seed).wireBytes()
            let whole = bytes
            for _ in 0..<Int.random(in: 0...3, using: &random) where bytes.readableBytes > 0 {
                bytes.setInteger(
                    UInt8.random(in: 0...255, using: &random),
                    at: Int.random(in: 0..<bytes.readableBytes, using: &random))
            }
            if Int.random(in: 0..<3, using: &random) == 0 {
                bytes.moveWriterIndex(to: Int.random(in: 0...bytes.readableBytes, using: &random))
            }
            var batch = StepBatch()
            guard (try? batch.read(bytes, in: .step)) != nil else {
                if bytes == whole { Issue.record("refused what it has written") }
                continue
            }
            guard let step = try? ProtoStep(wireBytes: bytes, in: .step) else {
                Issue.record("read what is no message: \(Array(bytes.readableBytesView))")
                continue
            }
            Self.expectEqual(batch, step)
        }
    }

    @Test func moreSequencesThanALaneHasAreRefused() throws {
        var batch = StepBatch()
        let most = [UInt8](repeatElement([0x3A, 0], count: StepBatch.mostSequences).joined())
        try batch.read(ByteBuffer(bytes: most), in: .step)
        #expect(batch.rows.count == StepBatch.mostSequences && !batch.isSmall)
        #expect(throws: Failure.self) { try batch.read(ByteBuffer(bytes: most + [0x3A, 0]), in: .step) }
        try batch.read(ByteBuffer(bytes: [0x3A, 0]), in: .step)
        #expect(batch.isSmall)
    }

    @Test func aLengthPastTheEndIsRefused() {
        for bytes in [
            [0x3A], [0x3A, 5, 1], [0x3A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], [0x08, 0x80], [0x00],
            [0x0B],
        ] as [[UInt8]] {
            var batch = StepBatch()
            let failure = #expect(throws: Failure.self) { try batch.read(ByteBuffer(bytes: bytes), in: .step) }
            #expect(failure?.code == "message_malformed", "\(bytes)")
        }
    }

    @Test func resultsAreWrittenAsTheLibraryReadsThem() throws {
        for tokens in [0, 1, 64] {
            var result = ProtoStepResult()
            result.stepID = 1 << 40
            result.lane = 3
            result.tokens = (0..<tokens).map { index in
                .with {
                    $0.sequence = UInt64(index) << 30
                    $0.token = Int32(index) * 1_000 - 1
                }
            }
            if tokens == 1 {
                result.scores = [
                    .with {
                        $0.nll = [0.5]; $0.position = 9
                    }
                ]
                result.failures = [
                    .with {
                        $0.sequence = 9; $0.failure.code = "not_finite"
                    }
                ]
            }
            var buffer = ByteBuffer()
            result.write(into: &buffer)
            #expect(try ProtoStepResult(wireBytes: buffer, in: .stepResult) == result)
        }
    }
}
