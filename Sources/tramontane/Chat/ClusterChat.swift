import TramontaneClient
import Wire

/// A cluster answers.
struct ClusterChat: ChatPartner {
    private let client: TramontaneClient
    private let options: GenerationOptions

    init(_ address: Address, apiKey: String?, sampling: SamplingArguments, maxTokens: Int?) throws {
        client = try Background.wait {
            try await TramontaneClient.connect(
                host: address.host, port: address.port, name: "tramontane chat", apiKey: apiKey ?? "")
        }
        var options = GenerationOptions(
            temperature: sampling.temperature, maxTokens: maxTokens, seed: sampling.seed)
        options.topK = sampling.topK
        options.topP = sampling.topP
        options.minP = sampling.minP
        self.options = options
    }

    func answer(_ turns: [ChatTurn]) throws -> String {
        let messages = turns.map { turn in
            switch turn.role {
            case .system: ChatMessage.system(turn.content)
            case .user: ChatMessage.user(turn.content)
            case .assistant: ChatMessage.assistant(turn.content)
            }
        }
        return try Background.wait { [client, options] in
            var text = ""
            for try await token in client.chat(messages, options: options) {
                text += token.text
                try StandardOutput.write(token.text)
            }
            return text
        }
    }
}
