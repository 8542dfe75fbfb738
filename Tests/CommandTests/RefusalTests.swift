import ArgumentParser
import Foundation
import ModelStore
import Testing

@testable import tramontane

/// What a command line that is wrong is answered by: one line, status 64.
struct RefusalTests {
    private func refusal(_ arguments: [String]) throws -> String {
        do {
            _ = try Tramontane.command(for: arguments, environment: [:])
        } catch {
            let failure = try #require(Tramontane.failure(error, arguments: arguments))
            #expect(failure.status == 64)
            #expect(failure.line.split(whereSeparator: \.isNewline).count == 1)
            return failure.line
        }
        Issue.record("was taken: \(arguments)")
        return ""
    }

    @Test(arguments: [
        (["up", "--model", "m", "--workers"], "-1 is not a whole number from 1 to 4096"),
        (["up", "--model", "m", "--workers", "2", "--stages"], "-1 is not a whole number from 1 to 4096"),
        (["up", "--model", "m", "--workers", "2", "--pages"], "-1 is not a whole number from 1 to 16777216"),
        (["up", "--model", "m", "--workers", "2", "--context-length"], "-1 is not a whole number"),
        (["up", "--model", "m", "--workers", "2", "--step-tokens"], "-1 is not a whole number from 2 to 8192"),
        (["up", "--model", "m", "--workers", "2", "--queue-limit"], "-1 is not a whole number from 1 to 1048576"),
        (["up", "--model", "m", "--workers", "2", "--threads"], "-1 is not a whole number from 1 to 4096"),
        (["up", "--model", "m", "--workers", "2", "--memory"], "-1 is not a size, such as 8GiB"),
        (["worker", "--model", "m", "--name", "a", "--coordinator", "h:1", "--threads"], "-1 is not a whole number"),
        (["worker", "--model", "m", "--name", "a", "--coordinator", "h:1", "--memory"], "-1 is not a size"),
        (["generate", "--model", "m", "--prompt", "x", "--max-tokens"], "-1 is not a whole number from 0"),
        (
            ["generate", "--model", "m", "--prompt", "x", "--seed"],
            "-1 is not a whole number from 0 to 1844674407370955161"
        ),
        (["generate", "--model", "m", "--prompt", "x", "--top-k"], "-1 is not a whole number from 0"),
        (["generate", "--model", "m", "--prompt", "x", "--threads"], "-1 is not a whole number"),
        (["generate", "--model", "m", "--prompt", "x", "--prefill-chunk"], "-1 is not a whole number"),
        (["generate", "--model", "m", "--prompt", "x", "--temperature"], "allowed are 0 to 100"),
        (["chat", "--model", "m", "--max-tokens"], "-1 is not a whole number from 1"),
        (["score", "--model", "m", "--top"], "-1 is not a whole number from 0"),
    ])
    func numbersBelowTheirLimit(arguments: [String], says: String) throws {
        let line = try refusal(arguments + ["-1"])
        #expect(line.contains(says) && line.contains(arguments.last ?? ""), "\(line)")
    }

    @Test(arguments: [
        (["chat", "--model", "m", "--api-key", "k"], "--api-key is for a cluster; --cluster HOST:PORT is missing"),
        (["score", "--model", "m", "--api-key", "k"], "--api-key is for a cluster; --cluster HOST:PORT is missing"),
        (["chat", "--cluster", "127.0.0.1:7000", "--api-key", "a b"], "characters of ASCII without spaces are wanted"),
    ])
    func keysThatNobodyCanBeSent(arguments: [String], says: String) throws {
        let line = try refusal(arguments)
        #expect(line.contains(says), "\(line)")
    }

    /// A key of the environment says nothing of a model in this process.
    @Test(arguments: ["chat", "score"]) func aKeyIsForClusters(command: String) throws {
        let resolver = SettingsResolver(
            commands: Tramontane.commands, environment: ["TRAMONTANE_API_KEY": "k", "TRAMONTANE_CLUSTER": "h:1"])
        #expect(try resolver.resolve([command, "--model", "m"]) == [command, "--model", "m"])
        let arguments = try resolver.resolve([command])
        #expect(arguments.contains("--api-key=k") && arguments.contains("--cluster=h:1"))
    }

    /// What its workers would refuse, after the coordinator has started.
    @Test func workersMetricsAtEveryAddress() throws {
        let line = try refusal(["up", "--model", "m", "--workers", "2", "--worker-metrics", "0.0.0.0:9100"])
        #expect(line.hasPrefix("--worker-metrics 0.0.0.0:9100 is every address of this machine"), "\(line)")
    }

    @Test func workersDoNotMeasureContexts() throws {
        let bench = ["bench", "--model", "m", "--workers", "2", "--context", "1024"]
        let line = try refusal(bench)
        #expect(line.hasPrefix("--workers measures prompts and batches; --prefill or --batch is missing"), "\(line)")
        _ = try Tramontane.command(for: bench + ["--batch", "1"], environment: [:])
    }

    @Test func aMisspeltOptionComesBeforeWhatIsMissingThen() throws {
        let line = try refusal(["up", "--model", "m", "--worker", "4"])
        #expect(line == "unknown option \"--worker\"; did you mean \"--workers\"?")
    }

    @Test func helpForNoCommand() throws {
        #expect(try refusal(["help", "chta"]) == "unknown command \"chta\"; did you mean \"chat\"?")
        #expect(try refusal(["help", "bogus"]).hasPrefix("unknown command \"bogus\"; allowed are bench, "))
        // Help that was asked for is no failure.
        var help = try Tramontane.command(for: ["up", "--help"], environment: [:])
        do {
            try help.run()
            Issue.record("no help")
        } catch {
            #expect(Tramontane.failure(error, arguments: []) == nil)
        }
    }

    @Test func benchIsAFamily() throws {
        func command(_ arguments: String...) throws -> any ParsableCommand {
            try Tramontane.command(for: arguments, environment: [:])
        }
        #expect(try command("bench", "--model", "m", "--batch", "1", "4") is BenchCommand)
        #expect(try command("bench", "engine", "--cpu") is BenchCommand)
        #expect(try command("bench", "serve", "--url", "http://h") is BenchServeCommand)
        #expect(try command("bench", "coordinator", "--model", "m") is BenchCoordinatorCommand)
        #expect(try refusal(["bench", "serv"]) == "unknown command \"bench serv\"; did you mean \"serve\"?")
        #expect(try refusal(["bench", "serve", "--ulr", "x"]).hasPrefix("unknown option \"--ulr\"; did you mean"))
        #expect(try refusal(["bench", "serve", "--url", "x"]).hasSuffix("For example: \(BenchServeCommand.example)"))
        #expect(try !refusal(["bench", "--weights", "resdent"]).contains(".."))
    }

    @Test func theConfigurationFileMayStandBeforeTheCommand() throws {
        let url = FileManager.default.temporaryDirectory.appending(path: "config-\(UUID().uuidString).yaml")
        try Data("up:\n  model: m\n  workers: 3\n".utf8).write(to: url)
        defer { try? FileManager.default.removeItem(at: url) }
        for arguments in [
            ["--config", url.path, "up"], ["up", "--config", url.path], ["--config=\(url.path)", "up"],
        ] {
            let command = try #require(Tramontane.command(for: arguments, environment: [:]) as? UpCommand)
            #expect(command.serving.workers == 3)
        }
    }

    @Test func badBlobsAreNamedByWhatTheyHold() throws {
        func blob(_ name: String) -> BlobReference { BlobReference(sha256: name, bytes: 1, tensors: []) }
        let shape = ModelShape(
            layers: 6, hidden: 256, heads: 8, keyValueHeads: 2, headDimension: 32, feedForward: 256, experts: 2,
            expertsUsed: 2, vocabulary: 1536, contextLength: 2048, ropeTheta: 1e6, normEpsilon: 1e-5, beginToken: 1,
            endToken: 2)
        let manifest = Manifest(
            name: "m", shape: shape, tokenizer: blob("t"), embedding: blob("e"), head: blob("h"),
            layers: (0..<6).map { layer in
                LayerBlobs(dense: blob("d\(layer)"), experts: [blob("same"), blob("x\(layer)")])
            })
        let parts = ["t", "e", "h", "d3", "x5", "same"].map { VerifyReport.parts(of: $0, in: manifest) }
        #expect(
            parts == [
                "tokenizer", "embedding", "head", "layer 3 dense", "layer 5 expert 1",
                "layer 0 expert 0, layer 1 expert 0, layer 2 expert 0, layer 3 expert 0 and 2 more",
            ])
        #expect(
            VerifyReport.summary(bad: 1, altered: 1, store: "/s")
                == "1 bad blob; remove what was altered from /s/blobs, then import the model again")
        #expect(VerifyReport.summary(bad: 2, altered: 0, store: "/s") == "2 bad blobs; import the model again")
    }
}
