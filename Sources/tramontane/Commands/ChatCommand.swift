import ArgumentParser
import Glibc
import Wire

/// Talks with a model, line by line.
struct ChatCommand: Command {
    static let example = "tramontane chat --cluster 127.0.0.1:7000 --system 'Answer in verse.'"
    static let configuration = commandConfiguration(
        "chat", "Talks with a cluster, or with a model in this process.",
        "Every line is a question; the answers before it are remembered. The end of the input (Ctrl-D) ends it.")
    static let settings: [Setting] =
        [
            .option("cluster", alternatives: ["model"]), .option("model", alternatives: ["cluster"]), .option("system"),
            .option("max-tokens"), .option("api-key", with: "cluster"),
        ] + SamplingArguments.settings + EngineOptions.settings + ModelOptions.settings

    @Option(
        help: ArgumentHelp("The coordinator's binary port.", valueName: "host:port"), transform: Address.remote)
    var cluster: Address?

    @Option(
        help: ArgumentHelp(
            "Or a model: a manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("What the model is told before the first question.", valueName: "text"))
    var system: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Longest answer. Default: the rest of the context.", valueName: "count"),
        transform: NumberParsing.positive)
    var maxTokens: Int?

    @Option(help: ArgumentHelp("For a cluster with a list of tenants.", valueName: "key"), transform: APIKey.sendable)
    var apiKey: String?

    @OptionGroup var sampling: SamplingArguments
    @OptionGroup var engine: EngineOptions
    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    func validate() throws {
        guard (model == nil) != (cluster == nil) else {
            throw ValidationError("one of --cluster HOST:PORT and --model PATH is wanted")
        }
        try APIKey.check(apiKey, isForCluster: cluster != nil)
    }

    func run() throws {
        let partner: any ChatPartner
        if let cluster {
            partner = try ClusterChat(cluster, apiKey: apiKey, sampling: sampling, maxTokens: maxTokens)
        } else if let model {
            partner = try LocalChat(
                models.resolve(model), engine: engine, sampling: sampling, maxTokens: maxTokens)
        } else {
            return
        }
        var turns: [ChatTurn] = system.map { [ChatTurn(role: .system, content: $0)] } ?? []
        let isInteractive = isatty(STDIN_FILENO) == 1
        var reader = LineReader()
        while true {
            if isInteractive { try StandardOutput.write("> ") }
            guard let line = try reader.next() else { break }
            let question = String(decoding: line, as: UTF8.self)
            if question.allSatisfy(\.isWhitespace) { continue }
            turns.append(ChatTurn(role: .user, content: question))
            let answer = try partner.answer(turns)
            try StandardOutput.write("\n")
            turns.append(ChatTurn(role: .assistant, content: answer))
        }
        if isInteractive { try StandardOutput.write("\n") }
    }
}

/// One turn of a conversation on the command line.
struct ChatTurn: Sendable {
    enum Role: String, Sendable {
        case system
        case user
        case assistant
    }

    let role: Role
    let content: String
}

/// Who answers.
protocol ChatPartner {
    /// Writes the answer to standard output while it is made.
    /// - Returns: all of it.
    func answer(_ turns: [ChatTurn]) throws -> String
}
