import ArgumentParser
import Foundation
import Yams

/// Adds to a command line what the environment and the configuration file say: the command line comes first, then
/// `TRAMONTANE_*`, then the file.
///
/// The result is a command line again, so that a value is checked in the same way wherever it comes from.
struct SettingsResolver {
    /// By command.
    private let settings: [String: [Setting]]
    private let environment: [String: String]

    init(commands: [any Command.Type], environment: [String: String]) {
        var settings: [String: [Setting]] = [:]
        for command in commands {
            settings[command.configuration.commandName ?? ""] = command.settings
        }
        self.init(settings: settings, environment: environment)
    }

    init(settings: [String: [Setting]], environment: [String: String]) {
        self.settings = settings
        self.environment = environment
    }

    /// - Parameter arguments: without the program's name.
    /// - Throws: ``CommandError`` for a file that cannot be read, or has an unknown key.
    func resolve(_ arguments: [String]) throws -> [String] {
        // `up` hands its children everything they need; what else is set was meant for `up`.
        guard let name = arguments.first, let known = settings[name], !arguments.contains("--supervised") else {
            return arguments
        }
        var given = Set(arguments.prefix { $0 != "--" }.compactMap(Self.optionName))
        var configPath = environment["TRAMONTANE_CONFIG"]
        var rest = Array(arguments.dropFirst())
        if let path = try Self.takeConfig(from: &rest) { configPath = path }

        var added: [String] = []
        func add(_ values: [String: String], from source: (Setting) -> String) throws {
            let before = given
            for setting in known {
                guard let value = values[setting.name], !before.contains(setting.name),
                    before.isDisjoint(with: setting.alternatives)
                else { continue }
                given.insert(setting.name)
                if !setting.isFlag {
                    added.append("--\(setting.name)=\(value)")
                } else if let isOn = Self.bool(value) {
                    if isOn { added.append("--\(setting.name)") }
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
        return [name] + added + rest
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
            if let sectionSettings = settings[key], node.mapping != nil {
                let names = Set(sectionSettings.map(\.name))
                for (key, node) in try entries(of: node, "\(file): \(key)") {
                    try check(key, allowed: names, "\(file): \(command)")
                    if sectionSettings == settings[command] { section[key] = try scalar(node, "\(file): \(key)") }
                }
            } else {
                try check(key, allowed: all.union(settings.keys), file)
                values[key] = try scalar(node, "\(file): \(key)")
            }
        }
        return values.merging(section) { $1 }
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

    /// Removes `--config FILE`, which is for this type alone.
    private static func takeConfig(from arguments: inout [String]) throws -> String? {
        let end = arguments.firstIndex(of: "--") ?? arguments.endIndex
        guard let index = arguments[..<end].lastIndex(where: { optionName($0) == "config" }) else { return nil }
        let argument = arguments.remove(at: index)
        if let equals = argument.firstIndex(of: "=") { return String(argument[argument.index(after: equals)...]) }
        guard index < arguments.count else {
            throw CommandError.usage("--config has no value; give the path of a YAML file: --config FILE")
        }
        return arguments.remove(at: index)
    }

    private static func bool(_ text: String) -> Bool? {
        switch text.lowercased() {
        case "true", "yes", "on", "1": true
        case "false", "no", "off", "0": false
        default: nil
        }
    }
}
