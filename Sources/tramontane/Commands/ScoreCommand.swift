import ArgumentParser
import Engine
import JSONText
import ModelStore
import Tokenizer
import TramontaneClient
import Wire

/// Says what a model thinks of texts.
struct ScoreCommand: Command {
    static let example = #"echo '{"text": "ROMEO:"}' | tramontane score --model cluster/demo --top 8"#
    static let configuration = commandConfiguration(
        "score", "Prints the logits and likelihoods of texts as lines of JSON.",
        """
        Reads {"ids": […]}, taken as they are, or {"text": …}, with <s> put before. Prints ids, top (the best [id, logit] at \
        every position), last_logits, mean_nll and routes_last ([experts, weights] of each layer at the last position). \
        Numbers read back to the same bits. A line that is wrong is answered by {"error": …}, and the status is 1 at the end.
        """)
    static let settings: [Setting] =
        [
            .option("model", alternatives: ["cluster"]), .option("cluster", alternatives: ["model"]), .option("top"),
            .option("api-key", with: "cluster"),
        ]
        + ModelOptions.settings + EngineOptions.settings

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String?

    @Option(
        help: ArgumentHelp("Ask this cluster instead, at its binary port.", valueName: "host:port"),
        transform: Address.remote)
    var cluster: Address?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Best tokens at every position. Default: 8.", valueName: "count"),
        transform: { try NumberParsing.count($0, 0...1_048_576) })
    var top = 8

    @Option(help: ArgumentHelp("For a cluster with a list of tenants.", valueName: "key"), transform: APIKey.sendable)
    var apiKey: String?

    @OptionGroup var engine: EngineOptions
    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    func validate() throws {
        guard (model == nil) != (cluster == nil) else {
            throw ValidationError("one of --model PATH and --cluster HOST:PORT is wanted")
        }
        try APIKey.check(apiKey, isForCluster: cluster != nil)
    }

    private enum Input {
        case ids([Int32])
        case text(String)

        init(_ line: JSONValue) throws {
            if let ids = line["ids"] {
                guard let elements = ids.array else {
                    throw LineError(code: "ids_invalid", message: "ids is \(ids.kind), not an array of token ids")
                }
                self = .ids(
                    try elements.map { element in
                        guard let id = element.integer.flatMap({ Int32(exactly: $0) }) else {
                            throw LineError(code: "ids_invalid", message: "ids has an element that is not a token id")
                        }
                        return id
                    })
            } else if let text = line["text"]?.string {
                self = .text(text)
            } else {
                throw LineError(code: "input_missing", message: #"{"ids": […]} or {"text": "…"} is wanted"#)
            }
        }
    }

    func run() throws {
        if let cluster {
            try score(with: cluster)
        } else if let model {
            try score(with: models.resolve(model))
        }
    }

    private func score(with model: ResolvedModel) throws {
        let tokenizer = try model.tokenizer()
        let runner = try engine.runner(model, tokens: model.manifest.shape.contextLength)
        try JSONLines.answer { line in
            let ids =
                switch try Input(line) {
                case .ids(let ids): ids
                case .text(let text): [tokenizer.beginToken] + tokenizer.encode(text)
                }
            let score = try runner.score(ids: ids, top: top, prefillChunk: engine.prefillChunk)
            return Self.line(
                ids: score.ids, top: score.top, lastLogits: score.lastLogits, meanNLL: score.meanNLL,
                routes: score.routesLast.map { ($0.experts, $0.weights) })
        }
    }

    private func score(with cluster: Address) throws {
        let client = try Background.wait {
            try await TramontaneClient.connect(
                host: cluster.host, port: cluster.port, name: "tramontane score", apiKey: apiKey ?? "")
        }
        defer { try? Background.wait { await client.close() } }
        try JSONLines.answer { line in
            var request = ProtoScoreRequest()
            request.top = UInt32(clamping: top)
            switch try Input(line) {
            case .ids(let ids): request.tokens.ids = ids
            case .text(let text): request.text = text
            }
            let response = try Background.wait { [request] in try await client.scored(request) }
            return Self.line(
                ids: response.ids, top: response.top.map { $0.tokens.map { ($0.token, $0.logit) } },
                lastLogits: response.lastLogits, meanNLL: response.meanNll,
                routes: response.routesLast.map { ($0.experts.map(Int.init), $0.weights) })
        }
    }

    private static func line(
        ids: [Int32], top: [[(Int32, Float)]], lastLogits: [Float], meanNLL: Double, routes: [([Int], [Float])]
    ) -> String {
        JSONLine.object { object in
            object.numbers("ids", ids)
            object.member("top") { line in
                line.array(top) { line, position in
                    line.array(position) { line, pair in
                        line.pair({ $0.number(pair.0) }, { $0.number(pair.1) })
                    }
                }
            }
            object.member("last_logits") { line in line.array(lastLogits) { $0.number($1) } }
            object.double("mean_nll", meanNLL)
            object.member("routes_last") { line in
                line.array(routes) { line, route in
                    line.pair({ $0.array(route.0) { $0.number($1) } }, { $0.array(route.1) { $0.number($1) } })
                }
            }
        }
    }
}
