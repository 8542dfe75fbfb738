import Wire

/// One turn of a chat.
public struct ChatMessage: Sendable, Hashable {
    public enum Role: String, Sendable, Hashable {
        case system, user, assistant, tool
    }

    public var role: Role
    public var content: String
    /// Calls of an assistant's turn: a JSON array in OpenAI's form; empty for none.
    public var toolCallsJSON: String
    /// On a tool's turn: the call it answers.
    public var toolCallID: String
    /// On a tool's turn: the function's name.
    public var name: String

    public init(
        role: Role, content: String, toolCallsJSON: String = "", toolCallID: String = "", name: String = ""
    ) {
        self.role = role
        self.content = content
        self.toolCallsJSON = toolCallsJSON
        self.toolCallID = toolCallID
        self.name = name
    }

    public static func system(_ content: String) -> ChatMessage { ChatMessage(role: .system, content: content) }
    public static func user(_ content: String) -> ChatMessage { ChatMessage(role: .user, content: content) }
    public static func assistant(_ content: String) -> ChatMessage { ChatMessage(role: .assistant, content: content) }
}

/// How an answer is generated. What is nil is the cluster's default.
public struct GenerationOptions: Sendable, Hashable {
    /// Name of the model; empty for the cluster's only one.
    public var model = ""
    /// 0 always takes the most likely token. Default 1.
    public var temperature: Float?
    /// Only this many most likely tokens are drawn from. Default 0: all.
    public var topK: Int?
    /// Only the most likely tokens that together have this probability are drawn from. Default 1: all.
    public var topP: Float?
    /// Only tokens with at least this share of the best one's probability are drawn from. Default 0: all.
    public var minP: Float?
    /// The same seed gives the same answer. One is drawn, and reported in ``Acceptance/seed``, if this is nil.
    public var seed: UInt64?
    /// Added to the logits of these tokens.
    public var logitBias: [Int32: Float] = [:]
    /// Longest answer in tokens. Default: 16 for a completion, the rest of the context for a chat.
    public var maxTokens: Int?
    /// The answer ends before the first of these.
    public var stop: [String] = []
    /// Function tools of a chat: a JSON array in OpenAI's form; empty for none.
    public var toolsJSON = ""
    /// Lower is served earlier, among the requests with the same API key: −1,000 to 1,000.
    public var priority = 0
    /// From the request's arrival, up to a day. An answer that has not finished by then fails with `deadline_exceeded`.
    public var deadlineMilliseconds: Int?

    public init(
        model: String = "", temperature: Float? = nil, maxTokens: Int? = nil, seed: UInt64? = nil, stop: [String] = []
    ) {
        self.model = model
        self.temperature = temperature
        self.maxTokens = maxTokens
        self.seed = seed
        self.stop = stop
    }
}

/// Some more of an answer: usually one token.
public struct Token: Sendable, Hashable {
    /// Whole characters; empty while a character is incomplete.
    public let text: String
    public let ids: [Int32]
}

/// What the cluster said when it took a request.
public struct Acceptance: Sendable, Hashable {
    /// Unique within the coordinator's life.
    public let requestID: String
    public let model: String
    /// The seed in use, drawn or given.
    public let seed: UInt64
    public let promptTokens: Int
}

/// How an answer ended.
public struct Outcome: Sendable, Hashable {
    public enum FinishReason: String, Sendable, Hashable {
        /// The model ended its answer, or a stop string appeared.
        case stop
        /// `maxTokens` or the end of the context was reached.
        case length
        /// The request was cancelled.
        case cancelled
        /// A reason that this version of the SDK does not know.
        case other
    }

    public let finishReason: FinishReason
    public let promptTokens: Int
    /// Generated tokens, the end-of-answer token included.
    public let completionTokens: Int
    /// Tokens of the prompt that the cluster did not have to compute again.
    public let cachedTokens: Int
}

/// A whole answer.
public struct Completion: Sendable, Hashable {
    public let text: String
    public let ids: [Int32]
    public let acceptance: Acceptance
    public let outcome: Outcome
}

extension Acceptance {
    init(_ message: ProtoAccepted) {
        self.init(
            requestID: message.requestID, model: message.model, seed: message.seed,
            promptTokens: Int(message.promptTokens)
        )
    }
}

extension Outcome {
    init(_ message: ProtoFinished) {
        let reason: FinishReason =
            switch message.reason {
            case .stop: .stop
            case .length: .length
            case .cancelled: .cancelled
            case .unspecified, .UNRECOGNIZED: .other
            }
        self.init(
            finishReason: reason, promptTokens: Int(message.promptTokens),
            completionTokens: Int(message.completionTokens), cachedTokens: Int(message.cachedTokens)
        )
    }
}

extension ProtoGenerateRequest {
    init(_ options: GenerationOptions) {
        self.init()
        model = options.model
        if let temperature = options.temperature { self.temperature = temperature }
        if let topK = options.topK { self.topK = UInt32(clamping: topK) }
        if let topP = options.topP { self.topP = topP }
        if let minP = options.minP { self.minP = minP }
        if let seed = options.seed { self.seed = seed }
        if let maxTokens = options.maxTokens { self.maxTokens = UInt32(clamping: maxTokens) }
        stop = options.stop
        priority = Int32(clamping: options.priority)
        if let deadline = options.deadlineMilliseconds { deadlineMs = UInt32(clamping: deadline) }
        // Sorted, so that equal options make equal bytes.
        logitBias = options.logitBias.sorted { $0.key < $1.key }.map { token, value in
            var bias = ProtoLogitBias()
            bias.token = token
            bias.bias = value
            return bias
        }
    }
}

extension ProtoChat {
    init(_ messages: [ChatMessage], toolsJson: String) {
        self.init()
        self.toolsJson = toolsJson
        self.messages = messages.map { message in
            var proto = ProtoChatMessage()
            proto.role = message.role.rawValue
            proto.content = message.content
            proto.toolCallsJson = message.toolCallsJSON
            proto.toolCallID = message.toolCallID
            proto.name = message.name
            return proto
        }
    }
}
