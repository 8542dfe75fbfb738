/// An option that the environment and the configuration file may set too.
struct Setting: Sendable, Equatable {
    /// As on the command line, without the dashes.
    let name: String
    /// Whether it takes no value; elsewhere it is then `true` or `false`.
    let isFlag: Bool
    /// Options that say otherwise: where one of them is given with more weight, this one is left out.
    let alternatives: [String]

    static func option(_ name: String, alternatives: [String] = []) -> Setting {
        Setting(name: name, isFlag: false, alternatives: alternatives)
    }

    static func flag(_ name: String) -> Setting {
        Setting(name: name, isFlag: true, alternatives: [])
    }

    var environmentName: String {
        "TRAMONTANE_" + name.uppercased().replacing("-", with: "_")
    }
}
