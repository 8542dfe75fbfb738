import ArgumentParser
import Engine
import Foundation

@main
struct Tramontane: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tramontane",
        abstract: "Serves Mixtral-class mixture-of-experts models on clusters of ordinary CPU servers.",
        discussion: """
            Every option can also be set in the environment (--http as TRAMONTANE_HTTP) or in a YAML file (--config FILE, \
            before or after the command, with `http: HOST:PORT`, or `up:` and settings below it for one command). The \
            command line comes first, then the environment, then the file.

            TRAMONTANE_ISA names the instruction set that this process and those it starts compute with: portable, avx2, \
            avx512, avx512vnni, avx512vnni-wide or neon. It changes no bit of a result. Default: the fastest that the machine has.

            Example:
              tramontane up --model cluster/demo --workers 4 --stages 2 --http 127.0.0.1:8080 --listen 127.0.0.1:7000 \
            --state /tmp/demo
            """,
        version: "tramontane 0.1.0",
        subcommands: commands)

    /// All subcommands. Each one's file has its name.
    static let commands: [any Command.Type] = [
        ImportCommand.self, VerifyCommand.self, UpCommand.self, CoordinatorCommand.self, WorkerCommand.self,
        StatusCommand.self, GenerateCommand.self, ChatCommand.self, TokenizeCommand.self, ScoreCommand.self,
        BenchGroup.self,
    ]

    /// Runs a command on the main thread, which is not one of Swift's cooperative pool: commands may block and compute.
    static func main() {
        BusErrorReason.announce()
        let arguments = Array(CommandLine.arguments.dropFirst())
        do {
            let environment = ProcessInfo.processInfo.environment
            try InstructionSet.choose(environment: environment)
            var command = try Self.command(for: arguments, environment: environment)
            try command.run()
        } catch {
            // Help and version were asked for.
            guard let failure = Self.failure(error, arguments: arguments) else { exit(withError: error) }
            if !failure.line.isEmpty { StandardError.write("tramontane: \(failure.line)\n") }
            Foundation.exit(failure.status)
        }
    }

    /// What a command line asks for, with the settings of environment and configuration file.
    static func command(for arguments: [String], environment: [String: String]) throws -> any ParsableCommand {
        let settings = SettingsResolver(commands: commands, environment: environment)
        let arguments = try settings.commandFirst(arguments)
        try checkCommand(arguments[...])
        return try parseAsRoot(settings.resolve(arguments))
    }

    /// What went wrong, in one line that is empty where everything was said already, and the status that the process ends
    /// with. Nil where nothing went wrong.
    static func failure(_ error: any Error, arguments: [String]) -> (line: String, status: Int32)? {
        if let error = error as? CommandError { return (oneLine(error.message), error.status) }
        let status = exitCode(for: error)
        if status == .success { return nil }
        guard status == .validationFailure else { return (oneLine(describe(error)), ExitCode.failure.rawValue) }
        var line = oneLine(message(for: error))
        if let command = Self.command(in: arguments[...]) {
            if line.hasSuffix(".") { line.removeLast() }
            line += ". For example: \(oneLine(command.example))"
        }
        return (line, status.rawValue)
    }

    /// The parser would call a misspelt command an unexpected argument, and would help with no command in particular.
    private static func checkCommand(_ arguments: ArraySlice<String>) throws {
        guard let name = arguments.first else { return }
        if name == "help" { return try checkCommand(arguments.dropFirst()) }
        try check(arguments, among: commands, of: "")
    }

    private static func check(
        _ arguments: ArraySlice<String>, among commands: [any Command.Type], of parent: String
    ) throws {
        guard let name = arguments.first, !name.hasPrefix("-"), !commands.isEmpty else { return }
        guard let command = commands.first(where: { $0.configuration.commandName == name }) else {
            let names = commands.compactMap { $0.configuration.commandName }
            throw CommandError.usage("unknown command \"\(parent)\(name)\"\(Suggestion.text(for: name, among: names))")
        }
        try check(arguments.dropFirst(), among: command.nested, of: "\(parent)\(name) ")
    }

    /// The command that arguments name, the innermost one.
    private static func command(in arguments: ArraySlice<String>) -> (any Command.Type)? {
        var found: (any Command.Type)?
        for argument in arguments {
            guard let next = (found?.nested ?? commands).first(where: { $0.configuration.commandName == argument })
            else { continue }
            found = next
            if next.nested.isEmpty { break }
        }
        return found
    }

    /// Errors of this project describe themselves; Foundation's say more in their localised form.
    static func describe(_ error: any Error) -> String {
        error is CocoaError ? error.localizedDescription : "\(error)"
    }

    static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).map { $0.trimmingCharacters(in: .whitespaces) }.joined(separator: " ")
    }
}

/// A subcommand.
protocol Command: ParsableCommand {
    /// A line that a user could type.
    static var example: String { get }

    /// The options that environment and configuration file may set.
    static var settings: [Setting] { get }

    /// Its own subcommands.
    static var nested: [any Command.Type] { get }
}

extension Command {
    static var nested: [any Command.Type] { [] }

    static func commandConfiguration(
        _ name: String, _ abstract: String, _ discussion: String = ""
    ) -> CommandConfiguration {
        CommandConfiguration(
            commandName: name, abstract: abstract,
            discussion: (discussion.isEmpty ? "" : discussion + "\n\n") + "Example:\n  " + example)
    }
}
