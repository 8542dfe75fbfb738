/// An option that the environment and the configuration file may set too.
struct Setting: Sendable, Equatable {
    /// As on the command line, without the dashes.
    let name: String
    /// Whether it takes no value; elsewhere it is then `true` or `false`.
    let isFlag: Bool
    /// Options that say otherwise: where one of them is given with more weight, this one is left out.
    let alternatives: [String]
    /// The option that this one is for: where that is not given at all, this one is left out.
    let needed: String?

    static func option(_ name: String, alternatives: [String] = [], with needed: String? = nil) -> Setting {
        Setting(name: name, isFlag: false, alternatives: alternatives, needed: needed)
    }

    static func flag(_ name: String) -> Setting {
        Setting(name: name, isFlag: true, alternatives: [], needed: nil)
    }

    var environmentName: String {
        "TRAMONTANE_" + name.uppercased().replacing("-", with: "_")
    }
}
