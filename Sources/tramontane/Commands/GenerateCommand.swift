import ArgumentParser
import Engine
import ModelStore
import Tokenizer

/// Continues a text in this process, without sockets.
struct GenerateCommand: Command {
    static let example =
        "tramontane generate --model cluster/demo --prompt 'ROMEO:' --max-tokens 64 --temperature 0.7 --seed 7"
    static let configuration = commandConfiguration(
        "generate", "Continues a text with a model in this process.",
        "Streams the text to standard output. <s> is put before the prompt.")
    static let settings: [Setting] =
        [.option("model"), .option("prompt"), .option("max-tokens"), .flag("json")] + ModelOptions.settings
        + EngineOptions.settings + SamplingArguments.settings

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String

    @Option(parsing: .unconditional, help: ArgumentHelp("The text to continue.", valueName: "text"))
    var prompt: String

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Most tokens to generate. Default: 16.", valueName: "count"),
        transform: { try NumberParsing.count($0, 0...(1 << 30)) })
    var maxTokens = 16

    @OptionGroup var sampling: SamplingArguments
    @OptionGroup var engine: EngineOptions
    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: "Print one JSON object with text, ids, finish_reason and seed, once it is complete.")
    var json = false

    func run() throws {
        let found = try models.resolve(model)
        let tokenizer = try found.tokenizer()
        let ids = [tokenizer.beginToken] + tokenizer.encode(prompt)
        let context = found.manifest.shape.contextLength
        guard ids.count < context else {
            throw CommandError.failure(
                "the prompt has \(ids.count) tokens, at most \(context - 1) fit into the context")
        }
        // max-tokens is at most 2^30 and the prompt is shorter than the context: no overflow.
        let runner = try engine.runner(found, tokens: ids.count + maxTokens + 1)
        let seed = sampling.seed ?? UInt64.random(in: .min ... .max)
        var detokenizer = Detokenizer(tokenizer, prompt: ids)
        var text = ""
        var failure: (any Error)?
        func emit(_ piece: String) -> Bool {
            if json {
                text += piece
            } else if !piece.isEmpty {
                do { try StandardOutput.write(piece) } catch { failure = error }
            }
            return failure == nil
        }
        let generation = try runner.generate(
            prompt: ids, parameters: sampling.parameters(seed: seed), maxTokens: maxTokens,
            prefillChunk: engine.prefillChunk
        ) { emit(detokenizer.append($0)) }
        _ = emit(detokenizer.finish())
        if let failure { throw failure }
        guard json else { return try StandardOutput.write("\n") }
        try StandardOutput.write(
            JSONLine.object { object in
                object.string("text", text)
                object.numbers("ids", generation.ids)
                object.string("finish_reason", generation.finishReason.rawValue)
                object.number("seed", seed)
                object.number("prompt_tokens", ids.count)
            })
    }
}
