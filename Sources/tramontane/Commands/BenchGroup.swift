import ArgumentParser

/// What is measured, each by a subcommand; without one it is the engine.
struct BenchGroup: Command {
    static let example = BenchCommand.example
    static let nested: [any Command.Type] = [
        BenchCommand.self, BenchServeCommand.self, BenchCoordinatorCommand.self, BenchSchedulerCommand.self,
    ]
    static let settings = BenchCommand.settings
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures a model and the machine, a server under load, the coordinator or its scheduler alone.",
        discussion: """
            Without a subcommand it is `engine`, whose options `tramontane bench engine --help` explains.

            Examples:
              \(nested.map { $0.example }.joined(separator: "\n  "))
            """,
        subcommands: nested, defaultSubcommand: BenchCommand.self)
}
