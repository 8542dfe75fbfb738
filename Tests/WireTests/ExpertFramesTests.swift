import NIOCore
import TestSupport
import Testing

@testable import Wire

private func code(_ body: () throws(Failure) -> Void) -> String? {
    do {
        try body()
        return nil
    } catch {
        return error.code
    }
}

@Suite struct ExpertFramesTests {
    private func request(
        format: RowFormat = .a8_32, rows: Int = 3, columns: Int = 256,
        assignments: [ExpertRequest.Assignment] = [.init(expert: 1, row: 0), .init(expert: 7, row: 2)]
    ) -> ExpertRequest {
        ExpertRequest(
            step: 11, lane: 2, layer: 3, isPrefill: true, format: format, rowCount: rows, columns: columns,
            assignments: assignments,
            rows: ByteBuffer(
                bytes: (0..<rows * format.rowBytes(columns: columns)).map { UInt8(truncatingIfNeeded: $0) })
        )
    }

    @Test(arguments: RowFormat.allCases)
    func requestRoundTrip(format: RowFormat) throws {
        let request = request(format: format)
        #expect(try ExpertRequest(payload: request.payload(), columns: 256, experts: 8) == request)
    }

    @Test func requestLiesAsDocumented() {
        let bytes = Array(
            request(format: .f32, rows: 1, columns: 1, assignments: [.init(expert: 4, row: 0)]).payload()
                .readableBytesView)
        #expect(
            bytes == [11, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
                + [4, 0, 0, 0, 0, 1, 2, 3])
    }

    @Test func rowsThatDoNotMatchTheShapeAreRefused() {
        let good = request().payload()
        func refused(_ change: (inout ByteBuffer) -> Void, columns: Int = 256, experts: Int = 8) -> Bool {
            var payload = good
            change(&payload)
            return code { () throws(Failure) in
                _ = try ExpertRequest(payload: payload, columns: columns, experts: experts)
            } == "rows_malformed"
        }
        #expect(!refused { _ in })
        #expect(refused({ _ in }, columns: 512))
        #expect(refused({ _ in }, experts: 7))
        #expect(refused { $0.setInteger(UInt8(2), at: 16) })
        #expect(refused { $0.setInteger(UInt8(3), at: 17) })
        #expect(refused { $0.setInteger(UInt16(1), at: 18) })
        for offset in [20, 24, 28] {
            for value in [0, 1, 4, 65_536, UInt32.max] {
                #expect(refused { $0.setInteger(value, at: offset, endianness: .little) }, "\(offset): \(value)")
            }
        }
        #expect(refused { $0.setInteger(UInt16(3), at: 34, endianness: .little) })
        #expect(refused { $0.writeInteger(UInt8(0)) })
        for length in 0..<good.readableBytes {
            #expect(refused { $0.moveWriterIndex(to: length) }, "\(length)")
        }
    }

    @Test func replyRoundTrip() throws {
        let reply = ExpertReply(
            step: 1, lane: 2, layer: 3, rowCount: 2, columns: 5, rows: ByteBuffer(repeating: 9, count: 40))
        #expect(try ExpertReply(payload: reply.payload(), columns: 5) == reply)
        let refusal = ExpertReply(step: 1, lane: 2, layer: 3, status: .notHeld, rowCount: 0, columns: 5)
        #expect(try ExpertReply(payload: refusal.payload(), columns: 5) == refusal)
        for status in [2, 3, 5] as [UInt64] {
            var reserved = refusal.payload()
            reserved.setInteger(status, at: 24, endianness: .little)
            #expect(
                code { () throws(Failure) in _ = try ExpertReply(payload: reserved, columns: 5) } == "rows_malformed")
        }
    }

    @Test func replyThatDoesNotMatchIsRefused() {
        let good = ExpertReply(
            step: 1, lane: 2, layer: 3, rowCount: 2, columns: 5, rows: ByteBuffer(repeating: 9, count: 40)
        ).payload()
        func refused(_ change: (inout ByteBuffer) -> Void, columns: Int = 5) -> Bool {
            var payload = good
            change(&payload)
            return code { () throws(Failure) in _ = try ExpertReply(payload: payload, columns: columns) }
                == "rows_malformed"
        }
        #expect(!refused { _ in })
        #expect(refused({ _ in }, columns: 6))
        #expect(refused { $0.setInteger(UInt32.max, at: 16, endianness: .little) })
        #expect(refused { $0.setInteger(UInt32(0), at: 16, endianness: .little) })
        // A refusal has no rows; 2 and 3 are reserved.
        for status in [1, 2, 3, 4, 5, UInt64.max] {
            #expect(refused { $0.setInteger(status, at: 24, endianness: .little) })
        }
        for length in 0..<good.readableBytes {
            #expect(refused { $0.moveWriterIndex(to: length) }, "\(length)")
        }
    }

    @Test func hiddenRoundTripWithEveryPadding() throws {
        for tokens in 1...5 {
            var step = ProtoStep()
            step.stepID = 1
            var rows = ProtoSequenceRows()
            rows.tokens = (0..<tokens).map { Int32($0) }
            step.rows = [rows, rows]
            var payload = ByteBuffer()
            var batch = StepBatch()
            try batch.read(step.wireBytes(), in: .hidden)
            HiddenState.write(step: batch, columns: 3, into: &payload) { space in
                for index in space.indices { space[index] = UInt8(truncatingIfNeeded: index) }
            }
            #expect(payload.readableBytes % 4 == 0)
            let hidden = try HiddenState(payload: payload, columns: 3)
            #expect(hidden.step == batch)
            #expect(hidden.rowCount == tokens * 2)
            #expect(Array(hidden.rows.readableBytesView) == (0..<tokens * 24).map { UInt8(truncatingIfNeeded: $0) })
            for length in 0..<payload.readableBytes {
                var short = payload
                short.moveWriterIndex(to: length)
                #expect(code { () throws(Failure) in _ = try HiddenState(payload: short, columns: 3) } != nil)
            }
            #expect(
                code { () throws(Failure) in _ = try HiddenState(payload: payload, columns: 4) } == "rows_malformed")
            #expect(code { () throws(Failure) in _ = try HiddenState(payload: payload, columns: .max) } != nil)
        }
    }

    @Test(arguments: 0..<100 as Range<UInt64>)
    func noiseNeverTraps(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var payload = request(format: .f32, rows: 2, columns: 4).payload()
        for _ in 0..<4 {
            let place = Int.random(in: 0..<40, using: &random)
            payload.setInteger(UInt8.random(in: 0...255, using: &random), at: place)
        }
        payload.moveWriterIndex(to: Int.random(in: 0...payload.readableBytes, using: &random))
        _ = try? ExpertRequest(payload: payload, columns: 4, experts: 8)
        _ = try? ExpertReply(payload: payload, columns: 4)
        _ = try? HiddenState(payload: payload, columns: 4)
    }
}
