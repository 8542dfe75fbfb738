import ArgumentParser
import Foundation
import ModelStore
import NIOCore
import NIOPosix
import Wire

/// Measures the coordinator and its gateway alone.
struct BenchCoordinatorCommand: Command {
    static let example =
        "tramontane bench coordinator --model cluster/demo --streams 64 --sleep-ms 10 --tokens 100 --json"
    static let configuration = commandConfiguration(
        "coordinator", "Measures what the coordinator adds to a token, with workers that sleep instead of computing.",
        """
        Starts a coordinator in a process of its own. Its workers are in this process: they speak the cluster's protocol over \
        loopback, hold no weights, and answer each step after a sleep with letters that follow from the token before and the \
        position. Streams are read over HTTP in this process too, and every byte is compared.

        It is a model with a purpose. Nothing competes with the coordinator for the processors but the clients, so what it \
        shows is the least that the coordinator adds; it says nothing about a model's speed. The latency of a token is taken \
        from the moment before its result is written to the socket to the moment after the client has read its event, and so \
        contains both sockets and the client's reading.

        --hold starts the same cluster for another load, such as `tramontane bench serve`, and keeps it until Ctrl-C; it prints \
        `ready http=HOST:PORT listen=HOST:PORT pid=COORDINATOR`. Options of `tramontane coordinator` may follow after `--`.
        """)
    static let settings: [Setting] =
        [
            .option("model"), .option("streams"), .option("tokens"), .option("prompt-tokens"), .option("sleep-ms"),
            .option("sleep-us-per-row"), .option("workers"), .option("stages"), .flag("hold"), .flag("json"),
        ] + ModelOptions.settings

    @Option(
        help: ArgumentHelp(
            "A manifest, a GGUF file, a safetensors directory or a stored name; only its shape and tokenizer matter.",
            valueName: "path"))
    var model: String

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Streams at once. Default: 64.", valueName: "count"),
        transform: { try NumberParsing.count($0, CoordinatorBench.Plan.streams) })
    var streams = 64

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens of each stream. Default: 100.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000_000) })
    var tokens = 100

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens of each prompt. Default: 16.", valueName: "count"),
        transform: { try NumberParsing.count($0, 3...1_000_000) })
    var promptTokens = 16

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("What a step takes in each stage. Default: 10.", valueName: "milliseconds"),
        transform: { try NumberParsing.count($0, 0...60_000) })
    var sleepMs = 10

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("What each row of a step adds to that. Default: 0.", valueName: "microseconds"),
        transform: { try NumberParsing.count($0, 0...1_000_000) })
    var sleepUsPerRow = 0

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Workers that sleep. Default: 1.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000) })
    var workers = 1

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Stages that they form. Default: 1.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000) })
    var stages = 1

    @Flag(help: "Keep the cluster for another load until Ctrl-C.")
    var hold = false

    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: "Print one JSON object.")
    var json = false

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("Options of `tramontane coordinator`, after `--`.", valueName: "options"))
    var coordinatorOptions: [String] = []

    func run() throws {
        ProcessLimits.raiseDescriptors()
        ProcessLimits.ignoreBrokenPipes()
        let found = try models.resolve(model)
        let shape = found.manifest.shape
        guard shape.vocabulary >= CoordinatorBench.Plan.vocabulary else {
            throw CommandError.usage(
                "the model's vocabulary has \(shape.vocabulary) tokens, \(CoordinatorBench.Plan.vocabulary) are needed")
        }
        guard hold || promptTokens + tokens <= shape.contextLength else {
            throw CommandError.usage(
                "streams of \(promptTokens + tokens) tokens were asked for, the model's context has \(shape.contextLength)"
            )
        }
        let letters = try LetterTokens(found.tokenizer())
        let coordinator = try CoordinatorProcess(
            arguments: [
                "--model", found.manifestPath, "--workers", "\(workers)", "--stages", "\(stages)", "--log-level",
                "warning",
            ] + coordinatorOptions)
        defer { coordinator.stop() }
        let listen = try coordinator.wait(for: .listening).listen
        let plan = CoordinatorBench.Plan(streams: streams, tokens: tokens, promptTokens: promptTokens)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let workerLoop = group.next(), clientLoop = group.next()
        let pace = SleepingCluster.Pace(
            step: .milliseconds(Int64(sleepMs)), row: .microseconds(Int64(sleepUsPerRow)))
        let (manifest, workers) = (found.manifest, workers)
        let cluster = try Background.wait {
            let times = try await workerLoop.submit { NIOLoopBound(StepTimes(plan: plan), eventLoop: workerLoop) }.get()
            let cluster = try await SleepingCluster.start(
                workers: workers, coordinator: listen, manifest: manifest, pace: pace, letters: letters, on: workerLoop)
            try await workerLoop.submit { cluster.value.observer = times.value }.get()
            return (cluster, times)
        }
        let http = try coordinator.wait(for: .ready).http
        if hold {
            try StandardOutput.write("ready http=\(http) listen=\(listen) pid=\(coordinator.processID)\n")
            return try waitForTheEnd()
        }
        let bench = CoordinatorBench(plan: plan, letters: letters, beginToken: shape.beginToken)
        let processID = coordinator.processID
        let result = try Background.wait {
            let result = try await bench.run(
                http: http, coordinator: processID, steps: cluster.1, on: clientLoop)
            // The workers go now, and not as soon as nobody asks for them any more.
            withExtendedLifetime(cluster.0) {}
            return result
        }
        try StandardOutput.write(
            json
                ? JSONLine.object { object in
                    object.number("workers", workers)
                    object.number("stages", stages)
                    object.number("sleep_ms", sleepMs)
                    object.number("sleep_us_per_row", sleepUsPerRow)
                    result.write(to: &object)
                } : result.table)
        if result.completed < streams || result.wrongBytes > 0 { throw CommandError.silent }
    }

    private func waitForTheEnd() throws {
        let signals = try SignalPipe([SIGINT, SIGTERM, SIGHUP])
        var descriptor = pollfd(fd: signals.readDescriptor, events: Int16(POLLIN), revents: 0)
        while signals.take().isEmpty {
            guard poll(&descriptor, 1, -1) >= 0 || errno == EINTR else {
                throw CommandError.failure("poll: \(String(cString: strerror(errno)))")
            }
        }
    }
}
