import ArgumentParser
import ModelStore

/// Writes a model into a store.
struct ImportCommand: Command {
    static let example =
        "tramontane import ~/models/Mixtral-8x22B-Instruct --store /srv/tramontane --name mixtral --quantize q4_K"
    static let configuration = commandConfiguration(
        "import", "Imports a GGUF file or a Hugging Face directory into a store.",
        """
        Prints the manifest's path, which other commands take as --model. An import that was interrupted goes on where it was \
        when the same command runs again.

        --quantize turns F32, F16 and BF16 matrices into blocks: q8_0 loses next to nothing, q4_K halves its size once more. \
        Matrices whose rows are not whole blocks of 256 become q8_0 in both cases. What is quantised already stays as it is.

        --synthetic takes no source: it writes a model of real dimensions and random weights, for benchmarks. A few different \
        layers stand for all, so that Mixtral-8x22B's 56 take 3 GB with q4_K:
          tramontane import --synthetic 8x22b --type q4_K --store /srv/tramontane --name bench
        """)
    static let settings: [Setting] = [
        .option("store"), .option("name"), .option("quantize", alternatives: ["synthetic"]), .option("synthetic"),
        .option("layers", with: "synthetic"), .option("unique-layers", with: "synthetic"),
        .option("type", with: "synthetic"), .option("seed", with: "synthetic"),
    ]

    @Argument(
        help: ArgumentHelp("A GGUF file (any part of a split one) or a safetensors directory.", valueName: "source"))
    var source: String?

    @Option(
        help: ArgumentHelp(
            "The store. Default: $TRAMONTANE_STORE, or ~/.local/share/tramontane.", valueName: "directory"))
    var store: String?

    @Option(help: ArgumentHelp("The model's name. Default: the source's.", valueName: "name"))
    var name: String?

    @Option(
        help: ArgumentHelp("Quantise what is not quantised yet: q8_0 or q4_K.", valueName: "format"),
        transform: { try choice($0, of: Importer.quantizations, \.rawValue) })
    var quantize: TensorFormat?

    @Option(
        help: ArgumentHelp("In place of a source, a random model: 8x22b, 8x7b or mini.", valueName: "width"),
        transform: { try choice($0, of: SyntheticModel.Width.allCases, \.rawValue) })
    var synthetic: SyntheticModel.Width?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("The random model's layers. Default: the real model's.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...65_535) })
    var layers: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("How many of them differ; the others repeat these. Default: 2.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...65_535) })
    var uniqueLayers: Int?

    @Option(
        help: ArgumentHelp(
            "The random weights' format: f32, f16, bf16, q8_0, q4_0, q4_K, q5_K or q6_K. Default: q4_K.",
            valueName: "format"),
        transform: { try choice($0, of: TensorFormat.allCases, \.rawValue) })
    var type: TensorFormat?

    @Option(
        parsing: .unconditional, help: ArgumentHelp("The random weights' seed. Default: 1.", valueName: "number"),
        transform: NumberParsing.seed)
    var seed: UInt64?

    @OptionGroup var settingsFile: SettingsFile

    func validate() throws {
        if synthetic != nil {
            guard source == nil else { throw ValidationError("a source or --synthetic, not both") }
            guard quantize == nil else {
                throw ValidationError("--quantize is for a source; --synthetic takes --type")
            }
        } else {
            guard source != nil else { throw ValidationError("a source is missing, or --synthetic") }
            for (option, isGiven) in [
                ("--layers", layers != nil), ("--unique-layers", uniqueLayers != nil), ("--type", type != nil),
                ("--seed", seed != nil),
            ] where isGiven {
                throw ValidationError("\(option) is for --synthetic")
            }
        }
    }

    func run() throws {
        let bar = ProgressBar("importing")
        defer { bar.clear() }
        let store = Store(directory: store ?? Store.defaultDirectory)
        let notice: (String) -> Void = {
            bar.clear()
            StandardError.write("tramontane: \($0)\n")
        }
        let path: String
        if let synthetic {
            let model = try SyntheticModel(
                synthetic, layers: layers, uniqueLayers: uniqueLayers, format: type ?? .q4_K, seed: seed ?? 1)
            path = try Importer.run(
                synthetic: model, store: store, name: name, progress: { bar.show($0) }, notice: notice)
        } else {
            path = try Importer.run(
                source: source ?? "", store: store, name: name, quantize: quantize, progress: { bar.show($0) },
                notice: notice)
        }
        bar.clear()
        try StandardOutput.write("\(path)\n")
    }
}

/// The value of this name.
private func choice<Value>(_ text: String, of values: [Value], _ name: (Value) -> String) throws -> Value {
    guard let value = values.first(where: { name($0) == text }) else {
        throw ValidationError("\(text) is unknown; allowed are \(values.map(name).joined(separator: ", "))")
    }
    return value
}
