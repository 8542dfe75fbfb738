import ArgumentParser

/// `--config`, which every command has. ``SettingsResolver`` takes it out of the command line before that is parsed; it
/// stands here to be in every command's `--help`.
struct SettingsFile: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Settings in YAML, such as `http: HOST:PORT`; what the command line or TRAMONTANE_* say comes first.",
            valueName: "file"))
    var config: String?
}
