import NIOCore
import SwiftProtobuf
import TestSupport
import Testing

@testable import Wire

@Suite struct FrameTests {
    @Test func messagesTravelInFrames() throws {
        var request = ProtoGenerateRequest()
        request.text = "To be"
        request.seed = .max
        let frame = Frame(.generate, request, correlation: 1)
        #expect(try frame.message(ProtoGenerateRequest.self) == request)
    }

    @Test func malformedMessagesAreNamed() {
        let frame = Frame(.generate, payload: ByteBuffer(bytes: [0xFF, 0xFF, 0xFF]))
        let failure = #expect(throws: Failure.self) { try frame.message(ProtoGenerateRequest.self) }
        #expect(failure?.code == "message_malformed")
    }

    @Test func deeplyNestedMessagesAreRefused() {
        // Unknown groups, a hundred thousand deep.
        let frame = Frame(.generate, payload: ByteBuffer(repeating: 0xA3, count: 100_000))
        #expect(throws: Failure.self) { try frame.message(ProtoGenerateRequest.self) }
    }

    @Test func unknownFieldsAreDropped() throws {
        // Field 1000, varint 5.
        let frame = Frame(.credit, payload: ByteBuffer(bytes: [0x08, 0x02, 0xC0, 0x3E, 0x05]))
        let credit: ProtoCredit = try frame.message()
        #expect(credit.frames == 2)
        #expect(credit.unknownFields == UnknownStorage())
    }

    @Test func errorsFitTheirLimit() throws {
        let failure = Failure(
            code: String(repeating: "c", count: 1000), message: String(repeating: "\u{1F600}", count: 100_000))
        #expect(Frame.error(failure).payload.readableBytes <= Frame.maximumHandshakePayloadBytes)
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func noiseNeverTraps(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var request = ProtoGenerateRequest()
        var message = ProtoChatMessage()
        message.role = "user"
        message.content = "What is in a name?"
        request.chat.messages = [message, message]
        request.stop = ["a", "b"]
        var bytes = Array(request.wireBytes().readableBytesView)
        for _ in 0..<Int.random(in: 1...5, using: &random) {
            bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        let frame = Frame(.generate, payload: ByteBuffer(bytes: bytes))
        _ = try? frame.message(ProtoGenerateRequest.self)
        _ = try? frame.message(ProtoStep.self)
        _ = try? frame.message(ProtoAssign.self)
        _ = try? frame.message(ProtoHello.self)
    }

    /// Each established role gets exactly the kinds of the documented table.
    @Test func rolesAndDirections() {
        func kinds(_ role: ProtoHello.Role, dialler: Bool) -> [FrameKind] {
            FrameKind.allCases.filter { $0.isAllowed(role: role, fromDialler: dialler) }
        }
        let common: [FrameKind] = [.error, .ping, .pong]
        #expect(kinds(.client, dialler: true) == common + [.generate, .cancel, .credit, .score, .status])
        #expect(
            kinds(.client, dialler: false) == common + [.accepted, .delta, .finished, .failed, .scored, .statusReport])
        #expect(kinds(.workerControl, dialler: true) == common + [.register, .shardReady, .heartbeat, .peerLost])
        #expect(kinds(.workerControl, dialler: false) == common + [.assign])
        #expect(kinds(.coordinatorData, dialler: true) == common + [.step])
        #expect(kinds(.coordinatorData, dialler: false) == common + [.stepResult, .stepFailed])
        #expect(kinds(.workerData, dialler: true) == common + [.experts, .hidden])
        #expect(kinds(.workerData, dialler: false) == common + [.expertResults])
        #expect(kinds(.unspecified, dialler: true) == common)
    }
}
