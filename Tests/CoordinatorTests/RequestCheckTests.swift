import JSONText
import NIOCore
import TestSupport
import Testing
import Tokenizer
import Wire

@testable import Coordinator

@Suite struct RequestCheckTests {
    private let check: RequestCheck

    init() throws {
        check = RequestCheck(
            modelName: "fake", tokenizer: try FakeModel.tokenizer(), vocabulary: FakeModel.vocabulary,
            contextLength: 1024)
    }

    private func refusal(_ change: (inout ProtoGenerateRequest) -> Void) -> RequestError? {
        var request = ProtoGenerateRequest()
        change(&request)
        return check.refusal(ofGenerate: request.wireBytes())
    }

    private func error(_ change: (inout ProtoGenerateRequest) -> Void) -> RequestError? {
        var message = ProtoGenerateRequest()
        change(&message)
        do throws(RequestError) {
            _ = try check.prepare(GenerationRequest(message), drawSeed: { 1 })
            return nil
        } catch {
            return error
        }
    }

    private func user(_ content: String) -> ProtoChatMessage {
        var message = ProtoChatMessage()
        message.role = "user"
        message.content = content
        return message
    }

    // MARK: Before decoding

    @Test func countsAreTakenFromTheEncodedRequest() {
        #expect(refusal { $0.chat.messages = Array(repeating: .init(), count: 4096) } == nil)
        #expect(
            refusal { $0.chat.messages = Array(repeating: .init(), count: 4097) }?.message
                == "messages: 4097 messages, 1 to 4096 are allowed")
        #expect(refusal { $0.stop = Array(repeating: "x", count: 16) } == nil)
        #expect(refusal { $0.stop = Array(repeating: "", count: 17) }?.code == "invalid_stop")
        #expect(refusal { $0.logitBias = Array(repeating: .init(), count: 1024) } == nil)
        #expect(refusal { $0.logitBias = Array(repeating: .init(), count: 1025) }?.code == "invalid_logit_bias")
        #expect(refusal { $0.text = String(repeating: "x", count: 65_536) } == nil)
        #expect(refusal { $0.text = String(repeating: "x", count: 65_537) }?.code == "prompt_too_long")
        #expect(refusal { $0.tokens.ids = Array(repeating: 1, count: 70_000) }?.code == "prompt_too_long")
        #expect(
            refusal { $0.chat.toolsJson = String(repeating: "[", count: 70_000) }?.code == "prompt_too_long")
        #expect(check.refusal(ofScore: ProtoScoreRequest().wireBytes()) == nil)
    }

    /// A chat may come in pieces, which a decoder joins.
    @Test func piecesOfAChatAreCountedTogether() {
        var piece = ProtoGenerateRequest()
        piece.chat.messages = Array(repeating: .init(), count: 2049)
        var bytes = piece.wireBytes()
        bytes.writeImmutableBuffer(piece.wireBytes())
        #expect(check.refusal(ofGenerate: bytes)?.code == "invalid_messages")
    }

    /// Whatever the bytes are: no trap, and what is within the limits is let through.
    @Test func damagedRequests() {
        var request = ProtoGenerateRequest()
        request.model = "fake"
        request.chat.messages = [user("To be"), user("or not")]
        request.stop = ["a", "b"]
        request.temperature = 0.5
        request.seed = .max
        let whole = Array(request.wireBytes().readableBytesView)
        for seed in 0..<3000 as Range<UInt64> {
            var random = SeededGenerator(seed: seed)
            var bytes = whole
            for _ in 0..<Int.random(in: 0...3, using: &random) where !bytes.isEmpty {
                let position = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[position] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: position)
                default: bytes.removeLast(bytes.count - max(1, position))
                }
            }
            let refusal = check.refusal(ofGenerate: ByteBuffer(bytes: bytes))
            #expect(refusal == nil, "seed \(seed)")
        }
        for byte in 0...255 as ClosedRange<UInt8> {
            _ = check.refusal(ofGenerate: ByteBuffer(repeating: byte, count: 40))
            _ = check.refusal(ofScore: ByteBuffer(repeating: byte, count: 40))
        }
    }

    // MARK: After decoding

    /// Calls and tools become a part of the prompt, so their length is the prompt's.
    @Test func everyPartOfAChatCounts() {
        let long = String(repeating: "x", count: 70_000)
        let tool = Tool(name: "f", description: long, parameters: .object([]))
        let call = ToolCall(id: nil, name: "f", arguments: long)
        let chats: [GenerationRequest.Prompt] = [
            .chat([ChatMessage(role: .user, content: long)], tools: []),
            .chat([ChatMessage(role: .user, content: "x")], tools: [tool]),
            .chat(
                [
                    ChatMessage(role: .user, content: "x"),
                    ChatMessage(role: .assistant, content: "", toolCalls: [call]),
                    ChatMessage(role: .tool, content: "1"),
                ], tools: []),
        ]
        for chat in chats {
            let error = #expect(throws: RequestError.self) {
                try check.prepare(GenerationRequest(prompt: chat), drawSeed: { 1 })
            }
            // Bytes are counted, not tokens.
            #expect(error?.message.contains("bytes, at most 65536 are read") == true)
        }
    }

    @Test func brokenJSONNamesItsField() {
        let tools = error {
            $0.chat.messages = [user("x")]
            $0.chat.toolsJson = "[{"
        }
        #expect(tools?.code == "invalid_tools")
        #expect(tools?.parameter == "tools")
        let many = error {
            $0.chat.messages = [user("x")]
            let tool = #"{"type": "function", "function": {"name": "f"}}"#
            $0.chat.toolsJson = "[" + Array(repeating: tool, count: 129).joined(separator: ",") + "]"
        }
        #expect(many?.message == "tools: 129 tools, at most 128 are allowed")
        let calls = error {
            $0.chat.messages = [user("x"), user("y")]
            $0.chat.messages[1].toolCallsJson = "{"
        }
        #expect(calls?.code == "invalid_messages")
        #expect(calls?.parameter == "messages[1].tool_calls_json")
        let role = error { $0.chat.messages = [user("x"), ProtoChatMessage()] }
        #expect(role?.code == "invalid_messages")
        #expect(role?.parameter == "messages[1].role")
    }

    @Test func howARequestIsServedAmongOthers() throws {
        var message = ProtoGenerateRequest()
        message.text = "x"
        message.apiKey = "one"
        message.priority = -3
        message.deadlineMs = 500
        let tenants = try Tenants([Tenants.Tenant(name: "a", key: "one")])
        let times = RequestTimes(arrived: .uptimeNanoseconds(1_000_000_000))
        #expect(
            ServiceTerms(try GenerationRequest(message, tenants: tenants), times)
                == ServiceTerms(tenant: "a", priority: -3, deadline: 1500))
        var score = ProtoScoreRequest()
        score.text = "x"
        score.apiKey = "one"
        score.priority = 4
        #expect(
            ServiceTerms(try ScoringRequest(score, tenants: tenants), times)
                == ServiceTerms(tenant: "a", priority: 4, deadline: nil))
        let stranger = #expect(throws: RequestError.self) {
            try GenerationRequest(ProtoGenerateRequest(), tenants: tenants)
        }
        #expect(stranger?.code == "invalid_api_key")
        for priority in [Int32.min, -1001, 1001, .max] {
            #expect(
                error {
                    $0.text = "x"
                    $0.priority = priority
                }?.code == "invalid_priority")
            let refused = #expect(throws: RequestError.self) {
                try check.prepare(ScoringRequest(input: .text("x"), top: 0, priority: Int(priority)))
            }
            #expect(refused?.code == "invalid_priority")
        }
        for deadline in [0, 86_400_001, UInt32.max] {
            #expect(
                error {
                    $0.text = "x"
                    $0.deadlineMs = deadline
                }?.message == "deadline_ms: \(deadline), 1 to 86400000 are allowed")
        }
    }

    @Test func aScoreGivesAtMostTheVocabulary() throws {
        let score = try check.prepare(ScoringRequest(input: .tokens([1, 2]), top: 1_000_000))
        #expect(score.top == UInt32(FakeModel.vocabulary))
        #expect(score.ids == [1, 2])
        let pairs = #expect(throws: RequestError.self) {
            try check.prepare(ScoringRequest(input: .tokens(Array(repeating: 1, count: 100)), top: 5000))
        }
        #expect(pairs?.code == "invalid_top")
        let negative = #expect(throws: RequestError.self) {
            try check.prepare(ScoringRequest(input: .text("x"), top: -1))
        }
        #expect(negative?.code == "invalid_top")
    }
}

@Suite struct PreparationQueueTests {
    @Test func bytesAreBounded() async {
        let queue = PreparationQueue(limit: 100)
        let half = PreparationQueue.bytesLimit / 2
        #expect(queue.add(bytes: half) {} == nil)
        #expect(queue.add(bytes: half) {} == nil)
        #expect(queue.add(bytes: 1) {}?.code == "queue_full")
        // They count until the work is done.
        var jobs = queue.jobs.makeAsyncIterator()
        let job = await jobs.next()
        #expect(queue.add(bytes: 1) {}?.code == "queue_full")
        job?()
        #expect(queue.add(bytes: half) {} == nil)
        #expect(queue.add(bytes: 1) {}?.code == "queue_full")
    }

    @Test func theNumberIsBounded() {
        let queue = PreparationQueue(limit: 2)
        #expect(queue.add(bytes: 1) {} == nil)
        #expect(queue.add(bytes: 1) {} == nil)
        #expect(queue.add(bytes: 1) {}?.code == "queue_full")
    }
}
