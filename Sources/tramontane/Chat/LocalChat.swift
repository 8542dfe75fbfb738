import Engine
import ModelStore
import Tokenizer

/// A model in this process answers.
struct LocalChat: ChatPartner {
    private let tokenizer: Tokenizer
    private let runner: LocalRunner
    private let sampling: SamplingArguments
    private let maxTokens: Int?
    private let prefillChunk: Int

    init(_ model: ResolvedModel, engine: EngineOptions, sampling: SamplingArguments, maxTokens: Int?) throws {
        tokenizer = try model.tokenizer()
        runner = try engine.runner(model, tokens: model.manifest.shape.contextLength)
        prefillChunk = engine.prefillChunk
        self.sampling = sampling
        self.maxTokens = maxTokens
    }

    func answer(_ turns: [ChatTurn]) throws -> String {
        let messages = turns.map { turn in
            switch turn.role {
            case .system: ChatMessage(role: .system, content: turn.content)
            case .user: ChatMessage(role: .user, content: turn.content)
            case .assistant: ChatMessage(role: .assistant, content: turn.content)
            }
        }
        let ids = try tokenizer.encodeChat(messages)
        var detokenizer = Detokenizer(tokenizer, prompt: [])
        var text = ""
        var failure: (any Error)?
        func emit(_ piece: String) -> Bool {
            text += piece
            do { try StandardOutput.write(piece) } catch { failure = error }
            return failure == nil
        }
        _ = try runner.generate(
            prompt: ids, parameters: sampling.parameters(seed: sampling.seed ?? UInt64.random(in: .min ... .max)),
            maxTokens: maxTokens, prefillChunk: prefillChunk
        ) { emit(detokenizer.append($0)) }
        _ = emit(detokenizer.finish())
        if let failure { throw failure }
        return text
    }
}
