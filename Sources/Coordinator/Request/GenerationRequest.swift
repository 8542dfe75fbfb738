package import Tokenizer

/// What somebody wants generated. Checked at submission; nothing in it is trusted before.
package struct GenerationRequest: Sendable {
    package enum Prompt: Sendable {
        /// A completion: `<s>` is put before the text.
        case text(String)
        /// Taken as they are.
        case tokens([Int32])
        /// Laid out in the model's chat format.
        case chat([ChatMessage], tools: [Tool])
    }

    /// Name of the model, or empty for the only one.
    package var model: String
    package var prompt: Prompt
    package var sampling: SamplingOptions
    /// From 1. Nil: 16 for text and tokens, the rest of the context for a chat.
    package var maxTokens: Int?
    /// Generation ends before the first of these appears in the text. At most 16, each of 1 to 1,024 bytes.
    package var stop: [String]
    /// A name out of `Tenants`, which makes no difference to the answer.
    package var tenant: String
    /// Lower is served earlier, among the requests of the same tenant: −1,000 to 1,000.
    package var priority: Int
    /// From arrival, 1 to 86,400,000. A request that has not finished by then has failed.
    package var deadlineMilliseconds: Int?

    package init(
        model: String = "", prompt: Prompt, sampling: SamplingOptions = SamplingOptions(), maxTokens: Int? = nil,
        stop: [String] = [], tenant: String = Tenants.anonymous, priority: Int = 0, deadlineMilliseconds: Int? = nil
    ) {
        self.model = model
        self.prompt = prompt
        self.sampling = sampling
        self.maxTokens = maxTokens
        self.stop = stop
        self.tenant = tenant
        self.priority = priority
        self.deadlineMilliseconds = deadlineMilliseconds
    }
}

/// How tokens are chosen; nil is the default. Out of range values are refused at submission.
package struct SamplingOptions: Sendable, Equatable {
    /// 0 (greedy) to 100; 1 where absent.
    package var temperature: Double?
    /// 0 keeps all.
    package var topK: Int?
    /// In (0, 1]; 1 keeps all.
    package var topP: Double?
    /// In [0, 1]; 0 keeps all.
    package var minP: Double?
    /// Drawn at admission where absent, and reported with `.accepted`.
    package var seed: UInt64?
    /// Which of a request's n answers this is: a part of the sampler's key.
    package var choice: Int
    /// Token and what is added to its logit (finite, −100 to 100). At most 1,024, no token twice.
    package var logitBias: [(token: Int32, bias: Float)]

    package init(
        temperature: Double? = nil, topK: Int? = nil, topP: Double? = nil, minP: Double? = nil, seed: UInt64? = nil,
        choice: Int = 0, logitBias: [(token: Int32, bias: Float)] = []
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.seed = seed
        self.choice = choice
        self.logitBias = logitBias
    }

    package static func == (a: SamplingOptions, b: SamplingOptions) -> Bool {
        a.temperature == b.temperature && a.topK == b.topK && a.topP == b.topP && a.minP == b.minP && a.seed == b.seed
            && a.choice == b.choice && a.logitBias.elementsEqual(b.logitBias, by: ==)
    }
}

/// A sequence to be scored rather than continued.
package struct ScoringRequest: Sendable {
    package enum Input: Sendable {
        /// `<s>` is put before it.
        case text(String)
        case tokens([Int32])
    }

    package var model: String
    package var input: Input
    /// Best (id, logit) pairs wanted at every position; more than the vocabulary are all.
    package var top: Int
    /// As in `GenerationRequest`.
    package var tenant: String
    package var priority: Int
    package var deadlineMilliseconds: Int?

    package init(
        model: String = "", input: Input, top: Int, tenant: String = Tenants.anonymous, priority: Int = 0,
        deadlineMilliseconds: Int? = nil
    ) {
        self.model = model
        self.input = input
        self.top = top
        self.tenant = tenant
        self.priority = priority
        self.deadlineMilliseconds = deadlineMilliseconds
    }
}
