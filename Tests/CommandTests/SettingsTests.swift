import ArgumentParser
import Foundation
import Testing

@testable import tramontane

struct SettingsTests {
    private let settings: [String: [Setting]] = [
        "serve": [
            .option("http"), .option("workers", alternatives: ["topology"]),
            .option("topology", alternatives: ["workers"]), .flag("insecure-network"),
        ],
        "ask": [.option("prompt")],
    ]

    private func resolve(
        _ arguments: [String], environment: [String: String] = [:], file: String? = nil
    ) throws -> [String] {
        let resolver = SettingsResolver(settings: settings, environment: environment)
        guard let file else { return try resolver.resolve(arguments) }
        let url = FileManager.default.temporaryDirectory.appending(path: "settings-\(UUID().uuidString).yaml")
        try Data(file.utf8).write(to: url)
        defer { try? FileManager.default.removeItem(at: url) }
        return try resolver.resolve(arguments + ["--config", url.path])
    }

    @Test func theCommandLineComesFirstThenTheEnvironmentThenTheFile() throws {
        let file = "http: file:1\nworkers: 3\n"
        #expect(try resolve(["serve"], file: file) == ["serve", "--http=file:1", "--workers=3"])
        let environment = ["TRAMONTANE_HTTP": "env:1"]
        #expect(
            try resolve(["serve"], environment: environment, file: file)
                == ["serve", "--http=env:1", "--workers=3"])
        #expect(
            try resolve(["serve", "--http", "flag:1"], environment: environment, file: file)
                == ["serve", "--workers=3", "--http", "flag:1"])
        #expect(
            try resolve(["serve", "--http=flag:1", "--", "--workers"], environment: environment)
                == ["serve", "--http=flag:1", "--", "--workers"])
    }

    @Test func whatSaysOtherwiseGoesBeforeAsAWhole() throws {
        #expect(
            try resolve(["serve", "--topology", "t.yaml"], environment: ["TRAMONTANE_WORKERS": "3"])
                == ["serve", "--topology", "t.yaml"])
        #expect(
            try resolve(["serve"], environment: ["TRAMONTANE_TOPOLOGY": "t.yaml"], file: "workers: 3")
                == ["serve", "--topology=t.yaml"])
    }

    @Test func flags() throws {
        let name = "TRAMONTANE_INSECURE_NETWORK"
        #expect(try resolve(["serve"], environment: [name: "true"]) == ["serve", "--insecure-network"])
        #expect(try resolve(["serve"], environment: [name: "0"]) == ["serve"])
        #expect(try resolve(["serve"], environment: [name: ""]) == ["serve"])
        #expect(throws: CommandError.self) { try resolve(["serve"], environment: [name: "maybe"]) }
    }

    @Test func aCommandsOwnSectionComesBeforeTheTop() throws {
        let file = "http: top:1\nserve:\n  http: own:1\nask:\n  prompt: Who?\n"
        #expect(try resolve(["serve"], file: file) == ["serve", "--http=own:1"])
        #expect(try resolve(["ask"], file: file) == ["ask", "--prompt=Who?"])
    }

    @Test(arguments: [
        ("htpp: a:1", "did you mean \"http\"?"),
        ("serve:\n  wrokers: 3", "did you mean \"workers\"?"),
        ("insecure_network: true", "did you mean \"insecure-network\"?"),
        ("zzzzzz: 1", "allowed are ask, http"),
        ("ask:\n  http: a:1", "ask: unknown key \"http\""),
        ("serve: 3", "serve is \"3\", but it is a command: settings of it are expected below"),
        ("ask: [prompt]", "ask is a list, but it is a command"),
        ("- http", "is not a list of"),
        ("http: [1, 2]", "is not a single value"),
        ("http: a\nhttp: b", "http"),
        ("http: \"", ""),
    ])
    func filesThatAreWrong(file: String, says: String) {
        let error = #expect(throws: CommandError.self) { try resolve(["serve"], file: file) }
        #expect(error?.status == 64)
        #expect(says.isEmpty || error?.message.contains(says) == true, "\(error?.message ?? "")")
    }

    @Test func aWordThatIsACommandAndAnOption() throws {
        let settings: [String: [Setting]] = ["chat": [.option("system")], "tokenize": [.option("chat")]]
        func read(_ text: String, _ command: String) throws -> [String: String] {
            try SettingsResolver.configuration(text, file: "f", command: command, settings: settings)
        }
        #expect(try read("chat: v3", "tokenize") == ["chat": "v3"])
        #expect(try read("chat:\n  system: Hm.", "chat") == ["system": "Hm."])
        #expect(try read("chat:\nsystem: Hm.", "chat") == ["system": "Hm."])
    }

    @Test func theFileMayStandBeforeTheCommand() throws {
        let resolver = SettingsResolver(settings: settings, environment: [:])
        #expect(
            try resolver.commandFirst(["--config", "f", "serve", "--http", "a:1"])
                == ["serve", "--config", "f", "--http", "a:1"])
        #expect(try resolver.commandFirst(["--config=f", "serve"]) == ["serve", "--config=f"])
        #expect(try resolver.commandFirst(["--config", "f", "--help"]) == ["--help"])
        #expect(try resolver.commandFirst(["serve", "--config", "f"]) == ["serve", "--config", "f"])
        #expect(try resolver.commandFirst([]) == [])
        #expect(throws: CommandError.self) { try resolver.commandFirst(["--config"]) }
    }

    @Test func optionsThatTheCommandDoesNotHave() throws {
        for (arguments, says) in [
            (["--worker", "4"], "unknown option \"--worker\"; did you mean \"--workers\"?"),
            (["-workers", "4"], "unknown option \"-workers\"; did you mean \"--workers\"?"),
            (["--prompt", "x"], "unknown option \"--prompt\"; allowed are --config, --http"),
        ] {
            let error = #expect(throws: CommandError.self) { try resolve(["serve"] + arguments) }
            #expect(error?.status == 64)
            #expect(error?.message.hasPrefix(says) == true, "\(error?.message ?? "")")
        }
        // Values are no options, whatever they look like; and help is given whatever else is there.
        for arguments in [
            ["--workers", "-1"], ["--topology", "--worker"], ["--worker", "4", "--help"], ["--", "--worker"],
        ] {
            #expect(try resolve(["serve"] + arguments) == ["serve"] + arguments)
        }
    }

    @Test func aFileThatIsNotThere() {
        #expect(throws: CommandError.self) { try resolve(["serve", "--config", "/nowhere/at/all.yaml"]) }
        #expect(throws: CommandError.self) { try resolve(["serve", "--config"]) }
    }

    @Test func otherCommandLinesStayAsTheyAre() throws {
        // Children of `up` share its environment, where TRAMONTANE_HTTP means the coordinator's port.
        let child = ["serve", "--supervised"]
        #expect(try resolve(child, environment: ["TRAMONTANE_HTTP": "a:1"]) == child)
        #expect(try resolve([]) == [])
        #expect(try resolve(["--help"], environment: ["TRAMONTANE_HTTP": "a:1"]) == ["--help"])
        #expect(try resolve(["unknown"], environment: ["TRAMONTANE_HTTP": "a:1"]) == ["unknown"])
    }

    @Test func aSubcommandHasSettingsOfItsOwn() throws {
        let resolver = SettingsResolver(
            settings: ["bench": [.option("model")], "bench serve": [.option("url")]],
            environment: ["TRAMONTANE_MODEL": "m", "TRAMONTANE_URL": "u"])
        #expect(try resolver.resolve(["bench", "--model", "x"]) == ["bench", "--model", "x"])
        #expect(try resolver.resolve(["bench"]) == ["bench", "--model=m"])
        #expect(try resolver.resolve(["bench", "serve"]) == ["bench", "serve", "--url=u"])
        #expect(try resolver.commandFirst(["--config", "f", "bench", "serve"]) == ["bench", "serve", "--config", "f"])
        #expect(throws: CommandError.self) { try resolver.resolve(["bench", "serve", "--model", "x"]) }
        let values = try SettingsResolver.configuration(
            "model: top\nbench serve:\n  url: own\n", file: "f", command: "bench serve",
            settings: ["bench": [.option("model")], "bench serve": [.option("url")]])
        #expect(values["url"] == "own")
    }

    @Test func editDistances() {
        #expect(Suggestion.distance("http", "http") == 0)
        #expect(Suggestion.distance("htpp", "http") == 1)
        #expect(Suggestion.distance("wrokers", "workers") == 1)
        #expect(Suggestion.distance("", "abc") == 3)
        #expect(Suggestion.nearest(to: "x", among: ["workers"]) == nil)
    }

    /// Every setting is an option that the command line knows, and every command's example is understood.
    @Test func settingsAreOptions() throws {
        var all: [(command: any Command.Type, name: String)] = []
        for command in Tramontane.commands {
            let name = command.configuration.commandName ?? ""
            for nested in command.nested { all.append((nested, name)) }
            if command.nested.isEmpty { all.append((command, name)) }
        }
        for (command, name) in all {
            let help = command.helpMessage(columns: 200)
            for setting in command.settings { #expect(help.contains("--\(setting.name)"), "\(setting.name)") }
            #expect(Set(command.settings.map(\.name)).count == command.settings.count)
            #expect(help.contains("tramontane \(name) "))
            #expect(help.contains("--config <file>"))
            // What is missing here would be refused as unknown.
            let known = Set(command.settings.map(\.name)).union(["config", "help", "version"])
            for line in help.split(separator: "\n") where line.hasPrefix("  -") {
                for match in line.prefix(while: { $0 != "<" }).matches(of: #/--([a-z-]+)/#) {
                    #expect(known.contains(String(match.1)), "\(line)")
                }
            }
        }
    }
}
