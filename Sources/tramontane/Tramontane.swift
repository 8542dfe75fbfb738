import ArgumentParser
import Yams
import Hummingbird

@main
struct Tramontane: ParsableCommand {
    func run() throws { print("hello") }
}
