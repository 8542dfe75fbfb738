import ArgumentParser
import ModelStore

/// Writes a model into a store.
struct ImportCommand: Command {
    static let example =
        "tramontane import ~/models/Mixtral-8x22B-Instruct --store /srv/tramontane --name mixtral --quantize q8_0"
    static let configuration = commandConfiguration(
        "import", "Imports a GGUF file or a Hugging Face directory into a store.",
        """
        Prints the manifest's path, which other commands take as --model. An import that was interrupted goes on where it was \
        when the same command runs again.
        """)
    static let settings: [Setting] = [.option("store"), .option("name"), .option("quantize")]

    @Argument(
        help: ArgumentHelp("A GGUF file (any part of a split one) or a safetensors directory.", valueName: "source"))
    var source: String

    @Option(
        help: ArgumentHelp(
            "The store. Default: $TRAMONTANE_STORE, or ~/.local/share/tramontane.", valueName: "directory"))
    var store: String?

    @Option(help: ArgumentHelp("The model's name. Default: the source's.", valueName: "name"))
    var name: String?

    @Option(
        help: ArgumentHelp("Quantise what is not quantised yet: q8_0.", valueName: "format"),
        transform: quantization)
    var quantize: TensorFormat?

    @OptionGroup var settingsFile: SettingsFile

    func run() throws {
        let bar = ProgressBar("importing")
        defer { bar.clear() }
        let path = try Importer.run(
            source: source, store: Store(directory: store ?? Store.defaultDirectory), name: name, quantize: quantize
        ) { bar.show($0) }
        bar.clear()
        try StandardOutput.write("\(path)\n")
    }
}

/// The one format that the importer quantises to.
private func quantization(_ text: String) throws -> TensorFormat {
    guard text == TensorFormat.q8_0.rawValue else { throw ValidationError("\(text), allowed is q8_0") }
    return .q8_0
}
