import NIOCore
import NIOPosix
import Wire

/// What coordinator and gateway add to a token: streams over HTTP, from a coordinator in a process of its own whose workers, in this one,
/// sleep instead of computing.
struct CoordinatorBench {
    struct Plan: Sendable {
        var streams: Int
        var tokens: Int
        var promptTokens: Int

        /// Tokens of each stream before anything is measured.
        static let warmUpTokens = 8
        private static let firstToken = 300
        private static let digit = 200
        static let streams = 1...digit * digit / 2
        /// Ids of prompts are below this.
        static let vocabulary = firstToken + digit

        /// A prompt that begins like no other stream's, so that no prefix of it is known.
        func prompt(_ stream: Int, begin: Int32) -> [Int32] {
            let number = [Self.firstToken + stream / Self.digit, Self.firstToken + stream % Self.digit]
            let filler = Array(repeating: Self.firstToken, count: promptTokens - 1 - number.count)
            return [begin] + (number + filler).map { Int32($0) }
        }

        /// The stream that rows belong to: the first of a sequence, or nil.
        func stream(at position: UInt32, tokens: ArraySlice<Int32>) -> Int? {
            guard position == 0, tokens.count >= 3 else { return nil }
            let high = Int(tokens[tokens.startIndex + 1]) - Self.firstToken
            let low = Int(tokens[tokens.startIndex + 2]) - Self.firstToken
            guard (0..<Self.digit).contains(high), (0..<Self.digit).contains(low) else { return nil }
            return high * Self.digit + low
        }
    }

    struct Result: Sendable {
        var plan: Plan
        var completed = 0
        /// Why streams did not finish.
        var failures: [String: Int] = [:]
        /// Bytes of text that were not what the workers had answered.
        var wrongBytes = 0
        var seconds = 0.0
        /// Milliseconds from a result's sending to each of its tokens at the client.
        var resultToClient: [Double] = []
        /// Milliseconds from a result's sending to the next step of each of its sequences at the worker; 0 where that was
        /// planned ahead and had come before.
        var resultToNextStep: [Double] = []
        /// While all streams ran: their tokens, and nanoseconds of processor time.
        var windowTokens = 0
        var coordinatorNanoseconds: UInt64 = 0
        var benchNanoseconds: UInt64 = 0
        var residentBytes: Int?
    }

    let plan: Plan
    let letters: LetterTokens
    let beginToken: Int32

    /// Runs all streams at once through a cluster that serves.
    func run(
        http: Address, coordinator: Int32, steps: NIOLoopBound<StepTimes>, on loop: any EventLoop
    ) async throws -> Result {
        let target = LoadTarget(
            address: try SocketAddress(ipAddress: http.host, port: http.port), host: "\(http)", path: "/v1/completions")
        let done = loop.makePromise(of: Void.self)
        let prompts = (0..<2 * plan.streams).map { plan.prompt($0, begin: beginToken) }
        let client = try await loop.submit {
            let client = LoadClient(target: target, loop: loop)
            let times = TokenTimes(
                plan: plan, letters: letters, prompts: prompts, coordinator: coordinator, client: client, done: done)
            client.observer = times
            times.start()
            return NIOLoopBound(times, eventLoop: loop)
        }.get()
        try await done.futureResult.get()
        var result = try await loop.submit { client.value.result }.get()
        let sent = try await steps.eventLoop.submit { [plan] in
            (times: steps.value.sent.suffix(plan.streams), turns: steps.value.turns)
        }.get()
        let arrived = try await loop.submit { [plan] in client.value.arrived.suffix(plan.streams) }.get()
        result.resultToClient = zip(sent.times, arrived).flatMap { sent, arrived in
            zip(sent, arrived).compactMap { sent, arrived in sent.map { Exchange.milliseconds(from: $0, to: arrived) } }
        }
        result.resultToNextStep = sent.turns
        return result
    }
}

/// The workers' side: when each token of each stream was sent, and when its sequence's next step came. Confined to a loop.
final class StepTimes: SleepingCluster.Observer {
    private let plan: CoordinatorBench.Plan
    private var streams: [UInt64: Int] = [:]
    /// By stream, those of the warm-up, then those that are measured, and by token: when its result was sent first. What is computed
    /// again, or past an answer's end, is no news.
    private(set) var sent: [[UInt64?]]
    /// By step under way: the tokens that it will give.
    private var expected: [StepKey: [(stream: Int, token: Int)]] = [:]
    private(set) var turns: [Double] = []

    init(plan: CoordinatorBench.Plan) {
        self.plan = plan
        sent = Array(repeating: [], count: 2 * plan.streams)
    }

    private struct StepKey: Hashable {
        let lane: UInt32
        let step: UInt64
    }

    func arrived(_ step: StepBatch, at now: UInt64) {
        var tokens: [(stream: Int, token: Int)] = []
        for rows in step.rows {
            let found = plan.stream(at: rows.position, tokens: step.tokens[rows.tokens])
            if let found, sent.indices.contains(found) { streams[rows.sequence] = found }
            guard let stream = streams[rows.sequence] else { continue }
            let token = Int(rows.position) - plan.promptTokens
            if rows.sample { tokens.append((stream, token + rows.tokens.count)) }
            guard stream >= plan.streams, token >= 0 else { continue }
            turns.append(time(of: token, stream).map { Exchange.milliseconds(from: $0, to: now) } ?? 0)
        }
        expected[StepKey(lane: step.lane, step: step.stepID)] = tokens
    }

    func sending(_ result: ProtoStepResult, at now: UInt64) {
        for (stream, token) in expected.removeValue(forKey: StepKey(lane: result.lane, step: result.stepID)) ?? []
        where token >= 0 && time(of: token, stream) == nil {
            while sent[stream].count <= token { sent[stream].append(nil) }
            sent[stream][token] = now
        }
    }

    private func time(of token: Int, _ stream: Int) -> UInt64? {
        sent[stream].indices.contains(token) ? sent[stream][token] : nil
    }
}

/// The clients' side: when each token came, and whether it is the right one. Confined to a loop.
private final class TokenTimes: LoadObserver {
    private let plan: CoordinatorBench.Plan
    private let prompts: [[Int32]]
    private let expected: [[UInt8]]
    private let coordinator: Int32
    private let client: LoadClient
    private let done: EventLoopPromise<Void>
    private(set) var arrived: [[UInt64]]
    private(set) var result: CoordinatorBench.Result
    private var running = 0
    private var begun: UInt64 = 0
    /// Measured streams that have their first token.
    private var started = 0
    private var tokens = 0
    private var window: (tokens: Int, coordinator: UInt64, bench: UInt64)?

    init(
        plan: CoordinatorBench.Plan, letters: LetterTokens, prompts: [[Int32]], coordinator: Int32, client: LoadClient,
        done: EventLoopPromise<Void>
    ) {
        self.plan = plan
        self.prompts = prompts
        self.coordinator = coordinator
        self.client = client
        self.done = done
        expected = prompts.map { letters.text(after: $0, count: plan.tokens) }
        arrived = Array(repeating: [], count: prompts.count)
        result = CoordinatorBench.Result(plan: plan)
    }

    func start() { send(0..<plan.streams, tokens: min(CoordinatorBench.Plan.warmUpTokens, plan.tokens)) }

    private func send(_ streams: Range<Int>, tokens: Int) {
        begun = LoadClient.now
        running = streams.count
        for stream in streams {
            let request = LoadRequest(prompt: prompts[stream], maxTokens: tokens, model: nil, stream: true, apiKey: nil)
            client.send(request, Exchange(index: stream, due: LoadClient.now, promptTokens: plan.promptTokens))
        }
    }

    func received(_ text: UnsafeRawBufferPointer, of stream: Int, at now: UInt64) {
        for byte in text {
            let place = arrived[stream].count
            if !expected[stream].indices.contains(place) || expected[stream][place] != byte { result.wrongBytes += 1 }
            arrived[stream].append(now)
        }
        guard stream >= plan.streams else { return }
        tokens += text.count
        if arrived[stream].count == text.count {
            started += 1
            if started == plan.streams { window = usage }
        }
    }

    private var usage: (tokens: Int, coordinator: UInt64, bench: UInt64) {
        (
            tokens, ProcessUsage.processorNanoseconds(coordinator) ?? 0,
            ProcessUsage.processorNanoseconds() ?? 0
        )
    }

    func ended(_ exchange: Exchange) {
        running -= 1
        guard exchange.index >= plan.streams else {
            if running == 0 { send(plan.streams..<2 * plan.streams, tokens: plan.tokens) }
            return
        }
        if let begin = window {
            let end = usage
            result.windowTokens = end.tokens - begin.tokens
            result.coordinatorNanoseconds = end.coordinator &- begin.coordinator
            result.benchNanoseconds = end.bench &- begin.bench
            window = nil
        }
        if let error = exchange.error {
            result.failures[error, default: 0] += 1
        } else {
            result.completed += 1
        }
        guard running == 0 else { return }
        result.seconds = Exchange.milliseconds(from: begun, to: LoadClient.now) / 1e3
        result.residentBytes = ProcessUsage.residentBytes(coordinator)
        client.close()
        done.succeed()
    }
}

extension CoordinatorBench.Result {
    private var perToken: (coordinator: Double, bench: Double)? {
        guard windowTokens > 0 else { return nil }
        let tokens = Double(windowTokens)
        return (Double(coordinatorNanoseconds) / 1e3 / tokens, Double(benchNanoseconds) / 1e3 / tokens)
    }

    func write(to object: inout JSONLine.Object) {
        object.number("streams", plan.streams)
        object.number("tokens", plan.tokens)
        object.number("prompt_tokens", plan.promptTokens)
        object.number("completed", completed)
        object.number("failed", plan.streams - completed)
        object.object("errors") { object in
            for (reason, count) in failures.sorted(by: { $0.key < $1.key }) { object.number(reason, count) }
        }
        object.number("wrong_bytes", wrongBytes)
        object.rounded("duration", seconds, digits: 3)
        object.rounded("output_throughput", Double(resultToClient.count) / seconds)
        object.distribution("result_to_client_ms", Distribution(resultToClient))
        object.distribution("result_to_next_step_ms", Distribution(resultToNextStep))
        if let perToken {
            object.rounded("coordinator_cpu_us_per_token", perToken.coordinator)
            object.rounded("bench_cpu_us_per_token", perToken.bench)
        }
        if let residentBytes { object.number("coordinator_resident_bytes", residentBytes) }
    }

    var table: String {
        var text = """
            \(completed) of \(plan.streams) streams of \(plan.tokens) tokens in \(Figure.fixed(seconds, 2)) s, \
            \(Figure.fixed(Double(resultToClient.count) / seconds, 0)) tokens a second\n
            """
        for (reason, count) in failures.sorted(by: { $0.key < $1.key }) { text += "\(count) failed: \(reason)\n" }
        if wrongBytes > 0 { text += "\(wrongBytes) bytes of text were wrong\n" }
        text += "\n"
        text += TextTable.columns([
            ["MILLISECONDS"] + Distribution.headings,
            ["result to client"] + Distribution(resultToClient).cells,
            ["result to next step"] + Distribution(resultToNextStep).cells,
        ])
        if let perToken {
            text += "\nprocessor time of a token: \(Figure.fixed(perToken.coordinator, 1)) µs in the coordinator, "
            text += "\(Figure.fixed(perToken.bench, 1)) µs in this process (clients and workers)\n"
        }
        if let residentBytes {
            text += "memory of the coordinator: \(ByteCount.text(UInt64(clamping: residentBytes)))\n"
        }
        return text
    }
}
