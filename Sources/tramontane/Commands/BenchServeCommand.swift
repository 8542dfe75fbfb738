import ArgumentParser
import Foundation
import NIOCore
import NIOPosix

/// Measures a server under load.
struct BenchServeCommand: Command {
    static let example =
        "tramontane bench serve --url http://127.0.0.1:8080 --rate 20 --requests 500 --prompt-tokens 256 --output-tokens 128"
    static let configuration = commandConfiguration(
        "serve", "Measures a server under load, over OpenAI's completions API.",
        """
        --rate sends requests as a Poisson process does, whatever becomes of those before (an open loop): the latency of a \
        request counts from when it was due. --concurrency lets so many clients each wait for an answer before they send the \
        next request (a closed loop). With both, arrivals wait for one of so many places. With neither, all are sent at once.

        Prompts are random token ids, exact in number and repeated by --seed; send other seeds to a server that caches \
        prefixes, unless that is the point. An answer may end before --output-tokens; the report says how many did.

        Percentiles are of all samples. Refusals, cut connections and broken answers are counted by kind. --json prints the \
        names of `vllm bench serve` where the thing is the same. Ctrl-C prints what there is.

        More examples:
          tramontane bench serve --url http://127.0.0.1:8080 --concurrency 64 --duration 30 --json
          tramontane bench serve --url http://127.0.0.1:8080 --rate 50 --shared-prefix 2000 --prompt-tokens 2048
          tramontane bench serve --url http://127.0.0.1:8080 --rate 100 --tenants 10 --goodput-ttft 200 --goodput-tpot 50
        """)
    static let settings: [Setting] =
        [
            "url", "model", "rate", "concurrency", "requests", "duration", "prompt-tokens", "output-tokens",
            "shared-prefix", "vocabulary", "seed",
        ].map { .option($0) } + [
            .option("api-key", alternatives: ["tenants"]), .option("tenants", alternatives: ["api-key"]),
            .option("goodput-ttft"), .option("goodput-tpot"), .flag("no-stream"), .flag("save-detailed"), .flag("json"),
        ]

    @Option(
        help: ArgumentHelp("The server, such as http://127.0.0.1:8080.", valueName: "url"), transform: LoadURL.init)
    var url: LoadURL

    @Option(help: ArgumentHelp("What `model` says in each request. Default: it is left out.", valueName: "name"))
    var model: String?

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Requests that arrive in a second, on average.", valueName: "rate"),
        transform: { try Self.number($0, above: 0, to: 1e6) })
    var rate: Double?

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Most requests at once.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var concurrency: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Requests in all. Default: 100, or as many as --duration allows.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...100_000_000) })
    var requests: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Send nothing after so long; what is under way is waited for.", valueName: "seconds"),
        transform: { try Self.number($0, above: 0, to: 1e6) })
    var duration: Double?

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens of each prompt. Default: 128.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000_000) })
    var promptTokens = 128

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Most tokens of each answer. Default: 128.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000_000) })
    var outputTokens = 128

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("The first so many tokens are the same in all prompts. Default: 0.", valueName: "count"),
        transform: { try NumberParsing.count($0, 0...1_000_000) })
    var sharedPrefix = 0

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Ids of prompts are below this. Default: 1500.", valueName: "count"),
        transform: { try NumberParsing.count($0, (LoadPrompts.firstToken + 1)...1_000_000) })
    var vocabulary = 1500

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Of prompts and arrivals. Default: 0.", valueName: "seed"),
        transform: NumberParsing.seed)
    var seed: UInt64 = 0

    @Option(
        help: ArgumentHelp("Sent with each request as `Authorization: Bearer`.", valueName: "key"),
        transform: APIKey.sendable)
    var apiKey: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Requests take turns with so many API keys, tenant-1 and so on; each is reported. A server with a list of tenants has to "
                + "have them on it.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...10_000) })
    var tenants: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Goodput: longest time to the first token.", valueName: "milliseconds"),
        transform: { try Self.number($0, above: 0, to: 1e9) })
    var goodputTtft: Double?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Goodput: longest time per output token.", valueName: "milliseconds"),
        transform: { try Self.number($0, above: 0, to: 1e9) })
    var goodputTpot: Double?

    @Flag(help: "Ask for whole answers; there is no time to a first token then.")
    var noStream = false

    @Flag(help: "Add every request's own figures to --json, as arrays.")
    var saveDetailed = false

    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: "Print one JSON object.")
    var json = false

    func validate() throws {
        guard sharedPrefix <= promptTokens else {
            throw ValidationError("--shared-prefix is \(sharedPrefix), a prompt has \(promptTokens) tokens")
        }
        guard apiKey == nil || tenants == nil else {
            throw ValidationError("--api-key and --tenants both say which keys are sent; leave one out")
        }
        guard !noStream || (goodputTtft == nil && goodputTpot == nil) else {
            throw ValidationError("--goodput-ttft and --goodput-tpot look at streams; leave --no-stream out")
        }
        guard !saveDetailed || json else { throw ValidationError("--save-detailed adds to --json, which is missing") }
    }

    static func number(_ text: String, above least: Double, to most: Double) throws -> Double {
        guard let value = Double(text), value > least, value <= most else {
            throw ValidationError("\(text) is not a number above \(least), at most \(most)")
        }
        return value
    }

    var plan: LoadRun.Plan {
        LoadRun.Plan(
            schedule: LoadSchedule.Plan(
                rate: rate, concurrency: concurrency, requests: requests ?? (duration == nil ? 100 : nil),
                durationNanoseconds: duration.map { UInt64($0 * 1e9) }, seed: seed),
            prompts: LoadPrompts(
                tokens: promptTokens, sharedTokens: sharedPrefix, vocabulary: vocabulary, seed: seed),
            outputTokens: outputTokens, isStreamed: !noStream, model: model,
            apiKeys: tenants.map { (1...$0).map { "tenant-\($0)" } } ?? apiKey.map { [$0] } ?? [])
    }

    func run() throws {
        ProcessLimits.raiseDescriptors()
        ProcessLimits.ignoreBrokenPipes()
        let signals = try SignalPipe([SIGINT, SIGTERM])
        let report = try LoadSession(plan: plan, url: url, signals: signals).run(
            bounds: LoadReport.Bounds(timeToFirstToken: goodputTtft, timePerOutputToken: goodputTpot))
        if json {
            try StandardOutput.write(report.json(detailed: saveDetailed))
        } else {
            try StandardOutput.write(report.table)
            if StandardOutput.isTerminal { try StandardOutput.write("\n" + report.plot(columns: 100)) }
        }
        guard report.all.completed > 0 else { throw CommandError.failure("no request was answered") }
    }
}

/// Where a server is: `http://HOST:PORT`, with a path before `/v1` where it has one.
struct LoadURL {
    let text: String
    let host: String
    let port: Int
    let path: String

    init(_ text: String) throws {
        guard let parts = URLComponents(string: text), let scheme = parts.scheme, let host = parts.host, !host.isEmpty
        else {
            throw ValidationError("\"\(text)\" is no URL; http://HOST:PORT is wanted")
        }
        guard scheme == "http" else {
            throw ValidationError("\"\(text)\": \(scheme) is not spoken, http is")
        }
        var base = parts.path
        while base.hasSuffix("/") { base.removeLast() }
        if base.hasSuffix("/v1") { base.removeLast(3) }
        self.text = text
        // Brackets belong to an IPv6 address in a URL, not to the address.
        self.host = host.hasPrefix("[") ? String(host.dropFirst().dropLast()) : host
        port = parts.port ?? 80
        path = base + "/v1/completions"
        guard (1...65_535).contains(port) else {
            throw ValidationError("\"\(text)\": the port is a number from 1 to 65535")
        }
    }

    func target() throws -> LoadTarget {
        do {
            let name = host.contains(":") ? "[\(host)]" : host
            return LoadTarget(
                address: try SocketAddress.makeAddressResolvingHost(host, port: port), host: "\(name):\(port)",
                path: path)
        } catch {
            throw CommandError.failure("\(host): there is no such host")
        }
    }
}

/// Runs a load and shows how far it is, until it is over or Ctrl-C comes.
struct LoadSession {
    let plan: LoadRun.Plan
    let url: LoadURL
    let signals: SignalPipe

    func run(bounds: LoadReport.Bounds) throws -> LoadReport {
        let target = try url.target()
        let loop = MultiThreadedEventLoopGroup(numberOfThreads: 1).next()
        let progress = LoadRun.ProgressBox()
        let wake = try Descriptors.pipe()
        let done = loop.makePromise(of: Void.self)
        done.futureResult.whenComplete { _ in close(wake.write) }
        let run = try Background.wait { [plan] in
            try await loop.submit {
                let client = LoadClient(target: target, loop: loop)
                let run = LoadRun(plan: plan, client: client, progress: progress, done: done)
                client.observer = run
                run.pump()
                return NIOLoopBound(run, eventLoop: loop)
            }.get()
        }
        try wait(for: wake.read, progress) { loop.execute { run.value.stop() } }
        close(wake.read)
        return try Background.wait { [plan, url] in
            try await loop.submit {
                LoadReport(
                    plan: plan, bounds: bounds, url: url.text, begun: run.value.begun, ended: run.value.ended,
                    sent: progress.now.sent, exchanges: run.value.exchanges)
            }.get()
        }
    }

    private func wait(for descriptor: Int32, _ progress: LoadRun.ProgressBox, stop: () -> Void) throws {
        let isShown = StandardError.isTerminal
        defer { if isShown { StandardError.write("\r\u{1B}[K") } }
        while true {
            var descriptors = [descriptor, signals.readDescriptor].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            guard poll(&descriptors, 2, isShown ? 200 : -1) >= 0 || errno == EINTR else {
                throw CommandError.failure("poll: \(String(cString: strerror(errno)))")
            }
            if descriptors[0].revents != 0 { return }
            if !signals.take().isEmpty { stop() }
            if isShown {
                StandardError.write("\r\u{1B}[K\(progress.now.line(of: plan.schedule, now: LoadClient.now))")
            }
        }
    }
}
