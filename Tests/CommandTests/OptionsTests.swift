import ArgumentParser
import ModelStore
import Placement
import Testing

@testable import tramontane

struct OptionsTests {
    @Test func addresses() throws {
        #expect(try Address.parse("127.0.0.1:0") == Address(host: "127.0.0.1", port: 0))
        #expect(try Address.parse("[::1]:7000") == Address(host: "::1", port: 7000))
        #expect(try Address.parse("[::1]:7000").description == "[::1]:7000")
        #expect(try Address.parse("node-1:65535").description == "node-1:65535")
    }

    @Test(arguments: [
        "", "127.0.0.1", ":80", "host:", "host:70000", "host:-1", "host:+1", "host:x", "::1:80",
        "host:99999999999999999999",
    ])
    func addressesThatAreWrong(text: String) {
        #expect(throws: ValidationError.self) { try Address.parse(text) }
    }

    @Test func theCoordinatorOfUpIsToldTheBackend() throws {
        let serving = try ServingOptions.parse(["--model", "m", "--workers", "1", "--compute", "openblas"])
        let arguments = serving.arguments(modelPath: "m")
        let place = try #require(arguments.firstIndex(of: "--compute"))
        #expect(arguments[place + 1] == "openblas")
        #expect(throws: Never.self) { try ServingOptions.parse(arguments) }
    }

    @Test func sizes() throws {
        #expect(try NumberParsing.bytes("8GiB") == 8 << 30)
        #expect(try NumberParsing.bytes("512m") == 512 << 20)
        #expect(try NumberParsing.bytes("77") == 77)
        for text in ["", "GiB", "8XB", "0", "-1", "99999999999999999999", "17179869184GiB", "8 GiB of it"] {
            #expect(throws: ValidationError.self) { try NumberParsing.bytes(text) }
        }
    }

    /// 6 layers, 8 experts.
    private let shape = ModelShape(
        layers: 6, hidden: 256, heads: 8, keyValueHeads: 2, headDimension: 32, feedForward: 256, experts: 8,
        expertsUsed: 2, vocabulary: 1536, contextLength: 2048, ropeTheta: 1e6, normEpsilon: 1e-5, beginToken: 1,
        endToken: 2)

    @Test func aTopology() throws {
        let topology = try TopologyFile.parse(
            """
            stages:
              - layers: 0-2
                workers:
                  - { name: a, experts: 0-3 }
                  - { name: b, experts: "3,4-7" }
              - layers: 3-5
                workers:
                  - name: c
                    experts: [0, 1, 2, 3, 4, 5, 6, 7]
            """, file: "t.yaml", shape: shape)
        #expect(topology.workers == ["a", "b", "c"])
        #expect(topology.stages[0].layers == 0..<3)
        #expect(topology.stages[0].members[1].experts == [3, 4, 5, 6, 7])
    }

    private func oneStage(_ workers: String) -> String {
        "stages:\n  - layers: 0-5\n    workers:\n" + workers
    }

    @Test func topologiesThatAreWrong() {
        let all = "      - { name: a, experts: 0-7 }\n"
        let cases: [(text: String, says: String)] = [
            (oneStage("      - { name: a, experts: 0-6 }\n"), "nobody holds expert 7"),
            (oneStage(all + all), "named twice"),
            (oneStage(all).replacing("layers:", with: "layer:"), "did you mean \"layers\""),
            (oneStage("      - { name: a, exprets: 0-7 }\n"), "did you mean \"experts\""),
            (oneStage("      - { name: a, experts: 0-9999999999 }\n"), "0-9999999999"),
            (oneStage("      - { name: a, experts: 0-8 }\n"), "expert 8"),
            ("stages:\n  - layers: 0-4\n    workers:\n" + all, "belong to no stage"),
            ("stages: []", "no stages"),
            ("stage: []", "did you mean \"stages\""),
            ("{", ""),
            ("", ""),
            ("stages: 5", ""),
        ]
        for (text, says) in cases {
            let error = #expect(throws: CommandError.self) {
                try TopologyFile.parse(text, file: "t.yaml", shape: shape)
            }
            #expect(error?.status == 64)
            #expect(error?.message.hasPrefix("t.yaml: ") == true)
            #expect(says.isEmpty || error?.message.contains(says) == true, "\(error?.message ?? "")")
        }
    }
}
