import ArgumentParser
import Engine

/// How tokens are chosen.
struct SamplingArguments: ParsableArguments {
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("0 takes the most likely token; above, the randomness grows.", valueName: "number"),
        transform: NumberParsing.float)
    var temperature: Float = 1

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("The same seed gives the same text. Drawn where it is not given.", valueName: "number"),
        transform: NumberParsing.seed)
    var seed: UInt64?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Draw from so many most likely tokens; 0 is all.", valueName: "count"),
        transform: { try NumberParsing.count($0, 0...(1 << 30)) })
    var topK = 0

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Draw from the most likely tokens that reach this probability.", valueName: "share"),
        transform: NumberParsing.float)
    var topP: Float = 1

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Leave out tokens below this share of the best one's probability.", valueName: "share"),
        transform: NumberParsing.float)
    var minP: Float = 0

    static let settings: [Setting] = ["temperature", "seed", "top-k", "top-p", "min-p"].map { .option($0) }

    func validate() throws {
        guard temperature >= 0, temperature <= 100 else {
            throw ValidationError("--temperature is \(temperature), allowed are 0 to 100")
        }
        guard topP > 0, topP <= 1 else {
            throw ValidationError("--top-p is \(topP), allowed are numbers above 0 up to 1")
        }
        guard minP >= 0, minP <= 1 else { throw ValidationError("--min-p is \(minP), allowed are 0 to 1") }
    }

    func parameters(seed: UInt64) -> SamplingParameters {
        SamplingParameters(temperature: temperature, topK: topK, topP: topP, minP: minP, seed: seed)
    }
}
