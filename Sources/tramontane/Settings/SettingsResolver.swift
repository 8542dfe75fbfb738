import ArgumentParser
import Foundation
import Yams

/// Adds to a command line what the environment and the configuration file say: the command line comes first, then
/// `TRAMONTANE_*`, then the file.
///
/// The result is a command line again, so that a value is checked in the same way wherever it comes from.
struct SettingsResolver {
    /// By command; a subcommand of another one has both names, with a space between them.
    private let settings: [String: [Setting]]
    private let environment: [String: String]

    init(commands: [any Command.Type], environment: [String: String]) {
        var settings: [String: [Setting]] = [:]
        for command in commands {
            let name = command.configuration.commandName ?? ""
            settings[name] = command.settings
            for nested in command.nested {
                settings["\(name) \(nested.configuration.commandName ?? "")"] = nested.settings
            }
        }
        self.init(settings: settings, environment: environment)
    }

    init(settings: [String: [Setting]], environment: [String: String]) {
        self.settings = settings
        self.environment = environment
    }

    /// Lets `--config FILE` stand before the command too.
    ///
    /// - Parameter arguments: without the program's name.
    /// - Returns: the arguments with the command first, if they name one.
    func commandFirst(_ arguments: [String]) throws -> [String] {
        guard let first = arguments.first, Self.optionName(first) == "config" else { return arguments }
        let length = first.contains("=") ? 1 : 2
        guard arguments.count >= length else { throw Self.configWithoutValue }
        let rest = arguments[length...]
        let words = commandWords(rest)
        // Before the command's own, since the last one counts.
        return words.isEmpty ? Array(rest) : words + arguments[..<length] + rest.dropFirst(words.count)
    }

    /// The words at the beginning that name a command: none, one, or two where it is a subcommand's.
    private func commandWords(_ arguments: some Collection<String>) -> [String] {
        let two = Array(arguments.prefix(2))
        if two.count == 2, settings[two.joined(separator: " ")] != nil { return two }
        return two.first.map { settings[$0] != nil } == true ? [two[0]] : []
    }

    /// - Parameter arguments: without the program's name, the command first.
    /// - Throws: ``CommandError`` for an option that the command does not have, for a file that cannot be read, or has an
    ///   unknown key.
    func resolve(_ arguments: [String]) throws -> [String] {
        // `up` hands its children everything they need; what else is set was meant for `up`.
        let words = commandWords(arguments)
        let name = words.joined(separator: " ")
        guard let known = settings[name], !arguments.contains("--supervised") else { return arguments }
        var rest = Array(arguments.dropFirst(words.count))
        let options = Self.options(in: rest, known)
        // Help is given whatever else is wrong.
        guard options.allSatisfy({ !Self.questions.contains($0.name) }) else { return arguments }
        try Self.check(options, known)
        var given = Set(options.map(\.name))
        let configPath = try Self.takeConfig(from: &rest, options) ?? environment["TRAMONTANE_CONFIG"]

        var added: [(setting: Setting, argument: String)] = []
        func add(_ values: [String: String], from source: (Setting) -> String) throws {
            let before = given
            for setting in known {
                guard let value = values[setting.name], !before.contains(setting.name),
                    before.isDisjoint(with: setting.alternatives)
                else { continue }
                given.insert(setting.name)
                if !setting.isFlag {
                    added.append((setting, "--\(setting.name)=\(value)"))
                } else if let isOn = Self.bool(value) {
                    if isOn { added.append((setting, "--\(setting.name)")) }
                } else {
                    throw CommandError.usage("\(source(setting)) is \"\(value)\", allowed are true and false")
                }
            }
        }
        var fromEnvironment: [String: String] = [:]
        for setting in known {
            if let value = environment[setting.environmentName], !value.isEmpty {
                fromEnvironment[setting.name] = value
            }
        }
        try add(fromEnvironment) { $0.environmentName }
        if let configPath, !configPath.isEmpty {
            try add(configuration(path: configPath, command: name)) { "\(configPath): \($0.name)" }
        }
        let wanted = added.filter { $0.setting.needed.map(given.contains) ?? true }
        return words + wanted.map(\.argument) + rest
    }

    /// The settings of one command in a configuration file: those at the top, and over them those in the command's section.
    private func configuration(path: String, command: String) throws -> [String: String] {
        let text: String
        do {
            text = try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw CommandError.usage("--config \(path): the file cannot be read")
        }
        do {
            return try Self.configuration(text, file: path, command: command, settings: settings)
        } catch let error as YamlError {
            throw CommandError.usage("\(path): \(error)")
        }
    }

    static func configuration(
        _ text: String, file: String, command: String, settings: [String: [Setting]]
    ) throws -> [String: String] {
        guard let root = try Yams.compose(yaml: text) else { return [:] }
        let all = Set(settings.values.joined().map(\.name))
        let top = try entries(of: root, "\(file): the top")
        var values: [String: String] = [:]
        var section: [String: String] = [:]
        for (key, node) in top {
            // A word may be both, as `chat` is: then a single value is the setting.
            if let sectionSettings = settings[key], !all.contains(key) || node.scalar?.string.isEmpty != false {
                let names = Set(sectionSettings.map(\.name))
                for (name, node) in try sectionEntries(of: node, key, file) {
                    try check(name, allowed: names, "\(file): \(key)")
                    let value = try scalar(node, "\(file): \(key): \(name)")
                    if key == command { section[name] = value }
                }
            } else {
                try check(key, allowed: all.union(settings.keys), file)
                values[key] = try scalar(node, "\(file): \(key)")
            }
        }
        return values.merging(section) { $1 }
    }

    /// The settings below a command's name; none where nothing is there.
    private static func sectionEntries(of node: Node, _ command: String, _ file: String) throws -> [(String, Node)] {
        guard node.mapping == nil else { return try entries(of: node, "\(file): \(command)") }
        if let scalar = node.scalar, scalar.string.isEmpty { return [] }
        let found = node.scalar.map { "\"\($0.string)\"" } ?? "a list"
        throw CommandError.usage(
            "\(file): \(command) is \(found), but it is a command: settings of it are expected below, each as `key: value`"
        )
    }

    private static func entries(of node: Node, _ place: String) throws -> [(String, Node)] {
        guard let mapping = node.mapping else { throw CommandError.usage("\(place) is not a list of `key: value`") }
        return try mapping.map { key, value in
            guard let name = key.scalar?.string else { throw CommandError.usage("\(place): a key is not a word") }
            return (name, value)
        }
    }

    private static func scalar(_ node: Node, _ place: String) throws -> String {
        guard let scalar = node.scalar else { throw CommandError.usage("\(place) is not a single value") }
        return scalar.string
    }

    private static func check(_ key: String, allowed: Set<String>, _ place: String) throws {
        guard !allowed.contains(key) else { return }
        throw CommandError.usage("\(place): unknown key \"\(key)\"\(Suggestion.text(for: key, among: allowed))")
    }

    private static func optionName(_ argument: String) -> String? {
        guard argument.hasPrefix("--"), argument.count > 2 else { return nil }
        return String(argument.dropFirst(2).prefix { $0 != "=" })
    }

    /// Where an option stands in a command line.
    private struct OptionPlace {
        let index: Int
        /// Without its dashes, where it has two.
        let name: String
        let written: String
    }

    /// What asks for a text and not for work, and is every command's.
    private static let questions: Set = ["help", "-h", "help-hidden", "version"]

    /// The options of a command line as far as its `--`. What follows an option that takes a value is its value.
    private static func options(in arguments: [String], _ known: [Setting]) -> [OptionPlace] {
        let withValue = Set(known.lazy.filter { !$0.isFlag }.map(\.name)).union(["config"])
        var options: [OptionPlace] = []
        var index = 0
        while index < arguments.count, arguments[index] != "--" {
            let argument = arguments[index]
            if let name = optionName(argument) {
                options.append(OptionPlace(index: index, name: name, written: "--\(name)"))
                if withValue.contains(name), !argument.contains("=") { index += 1 }
            } else if argument.hasPrefix("-"), argument.count > 1 {
                options.append(OptionPlace(index: index, name: argument, written: argument))
            }
            index += 1
        }
        return options
    }

    /// The parser would say what is missing before it says what is misspelt.
    private static func check(_ options: [OptionPlace], _ known: [Setting]) throws {
        let allowed = Set(known.map(\.name)).union(["config"])
        guard let unknown = options.first(where: { !allowed.contains($0.name) }) else { return }
        let hint = Suggestion.text(for: unknown.written, among: allowed.map { "--\($0)" })
        throw CommandError.usage("unknown option \"\(unknown.written)\"\(hint)")
    }

    /// Removes the last `--config FILE`, which is for this type alone.
    private static func takeConfig(from arguments: inout [String], _ options: [OptionPlace]) throws -> String? {
        guard let index = options.last(where: { $0.name == "config" })?.index else { return nil }
        let argument = arguments.remove(at: index)
        if let equals = argument.firstIndex(of: "=") { return String(argument[argument.index(after: equals)...]) }
        guard index < arguments.count else { throw configWithoutValue }
        return arguments.remove(at: index)
    }

    private static let configWithoutValue = CommandError.usage(
        "--config has no value; give the path of a YAML file: --config FILE")

    private static func bool(_ text: String) -> Bool? {
        switch text.lowercased() {
        case "true", "yes", "on", "1": true
        case "false", "no", "off", "0": false
        default: nil
        }
    }
}
