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
        ("ask:\n  http: a:1", "unknown key \"http\""),
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

    @Test func editDistances() {
        #expect(Suggestion.distance("http", "http") == 0)
        #expect(Suggestion.distance("htpp", "http") == 1)
        #expect(Suggestion.distance("wrokers", "workers") == 1)
        #expect(Suggestion.distance("", "abc") == 3)
        #expect(Suggestion.nearest(to: "x", among: ["workers"]) == nil)
    }

    /// Every setting is an option that the command line knows, and every command's example is understood.
    @Test func settingsAreOptions() throws {
        for command in Tramontane.commands {
            let help = command.helpMessage(columns: 200)
            for setting in command.settings { #expect(help.contains("--\(setting.name)"), "\(setting.name)") }
            #expect(Set(command.settings.map(\.name)).count == command.settings.count)
            #expect(help.contains("tramontane \(command.configuration.commandName ?? "")"))
        }
    }
}
