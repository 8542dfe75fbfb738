import ArgumentParser
import Engine

extension InstructionSet: ExpressibleByArgument {
    package init?(argument: String) {
        self.init(name: argument)
    }

    package static var allValueStrings: [String] { all.map(\.name) }

    package var defaultValueDescription: String { name }

    /// What `TRAMONTANE_ISA` says, for every command: `up` hands it on to its workers with the rest of the environment.
    ///
    /// - Throws: ``CommandError`` for a name that is none, or a set that this machine does not have.
    static func choose(environment: [String: String]) throws {
        guard let name = environment["TRAMONTANE_ISA"], !name.isEmpty else { return }
        guard let set = InstructionSet(name: name) else {
            throw CommandError.usage(
                "TRAMONTANE_ISA is \"\(name)\", allowed are \(allValueStrings.joined(separator: ", "))")
        }
        try choose(set, from: "TRAMONTANE_ISA")
    }

    /// - Parameter source: what the user wrote it in.
    static func choose(_ set: InstructionSet, from source: String) throws {
        do {
            try choose(set)
        } catch let error as EngineError {
            throw CommandError.usage("\(source): \(error.message)")
        }
    }
}
