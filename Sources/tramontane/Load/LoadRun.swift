import NIOCore
import Synchronization

/// Sends a load's requests as its schedule says, and gathers what came of them. Confined to the client's event loop.
final class LoadRun: LoadObserver {
    struct Plan: Sendable {
        var schedule: LoadSchedule.Plan
        var prompts: LoadPrompts
        var outputTokens: Int
        var isStreamed = true
        /// What `model` says; nil leaves it out.
        var model: String?
        /// Requests take turns with them; empty where no key is sent.
        var apiKeys: [String] = []

        func request(_ index: Int) -> LoadRequest {
            LoadRequest(
                prompt: prompts.prompt(index), maxTokens: outputTokens, model: model, stream: isStreamed,
                apiKey: key(of: index))
        }

        func key(of index: Int) -> String? { apiKeys.isEmpty ? nil : apiKeys[index % apiKeys.count] }
    }

    /// How far it is, for whoever waits.
    struct Progress: Sendable {
        var begun: UInt64 = 0
        var sent = 0
        var finished = 0
        var failed = 0
        var outputTokens = 0
        var underWay: Int { sent - finished - failed }
    }

    let plan: Plan
    private let client: LoadClient
    private let progress: ProgressBox
    private let done: EventLoopPromise<Void>
    private var schedule: LoadSchedule
    private var timer: Scheduled<Void>?
    private(set) var exchanges: [Exchange] = []
    let begun: UInt64
    private(set) var ended: UInt64 = 0
    private var isStopped = false

    /// Progress that another thread looks at.
    final class ProgressBox: Sendable {
        private let value = Mutex(Progress())
        var now: Progress { value.withLock { $0 } }
        func update(_ body: (inout Progress) -> Void) { value.withLock { body(&$0) } }
    }

    init(plan: Plan, client: LoadClient, progress: ProgressBox, done: EventLoopPromise<Void>) {
        self.plan = plan
        self.client = client
        self.progress = progress
        self.done = done
        let begun = LoadClient.now
        self.begun = begun
        schedule = LoadSchedule(plan.schedule, begin: begun)
        progress.update { $0.begun = begun }
    }

    /// Sends what is due, and comes again when more is.
    func pump() {
        guard !isStopped else { return }
        let first = schedule.sent
        for (index, due) in schedule.start(at: LoadClient.now).enumerated() {
            progress.update { $0.sent += 1 }
            client.send(
                plan.request(first + index),
                Exchange(index: first + index, due: due, promptTokens: plan.prompts.tokens))
        }
        timer?.cancel()
        timer = nil
        if schedule.isOver {
            finish()
        } else if let time = schedule.wakeAt {
            timer = client.loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(time)) { self.pump() }
        }
    }

    /// Ends it now: what is under way is cut off.
    func stop() {
        guard !isStopped else { return }
        schedule.stop()
        timer?.cancel()
        finish()
    }

    private func finish() {
        isStopped = true
        ended = LoadClient.now
        client.close()
        done.succeed()
    }

    func received(_ text: UnsafeRawBufferPointer, of exchange: Int, at now: UInt64) {
        progress.update { $0.outputTokens += 1 }
    }

    func ended(_ exchange: Exchange) {
        guard !isStopped else { return }
        exchanges.append(exchange)
        progress.update { progress in
            if exchange.outcome == .finished { progress.finished += 1 } else { progress.failed += 1 }
        }
        schedule.ended()
        pump()
    }
}

extension LoadRun.Progress {
    /// One line for a terminal.
    func line(of plan: LoadSchedule.Plan, now: UInt64) -> String {
        let seconds = max(Exchange.milliseconds(from: begun, to: now) / 1e3, 0.001)
        var fraction = plan.requests.map { Double(finished + failed) / Double(max($0, 1)) } ?? 0
        if let duration = plan.durationNanoseconds { fraction = max(fraction, seconds / (Double(duration) / 1e9)) }
        let filled = Int(min(1, fraction) * 24)
        let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 24 - filled)
        let of = plan.requests.map { " of \($0)" } ?? ""
        let rate = Figure.fixed(Double(outputTokens) / seconds, 0)
        return "\(bar) \(finished)\(of) answered, \(underWay) under way, \(failed) failed, \(rate) tokens/s"
    }
}
