import Logging
import ModelStore
import NIOCore
import Placement
import SwiftProtobuf
import Transport
import Wire

/// The shell: holds the machines, feeds them what arrives and performs what they say. Confined to one event loop, on
/// which all of the coordinator's connections live; nothing here blocks or computes for long.
final class Core {
    /// A class, so that a token changes its machine in place.
    final class Request {
        /// One of both.
        fileprivate(set) var generation: RequestMachine?
        fileprivate(set) var score: ScoreMachine?
        let sink: any RequestSink
        let terms: ServiceTerms
        fileprivate(set) var times: RequestTimes

        init(generation: RequestMachine, sink: any RequestSink, terms: ServiceTerms, times: RequestTimes) {
            self.generation = generation
            self.sink = sink
            self.terms = terms
            self.times = times
        }

        init(
            score: ScoreMachine, sink: any RequestSink, terms: ServiceTerms, times: RequestTimes = RequestTimes()
        ) {
            self.score = score
            self.sink = sink
            self.terms = terms
            self.times = times
        }
    }

    /// How often deadlines are looked at: well below the shortest, so that a lost worker is noticed in time.
    static let tickInterval = TimeAmount.milliseconds(100)
    /// Between two ticks: more means that this process stood still.
    private static let longestTick: UInt64 = 1_000

    let loop: any EventLoop
    let configuration: CoordinatorConfiguration
    let identity: LocalIdentity
    let check: RequestCheck
    let manifestDigest: [UInt8]
    let logger: Logger
    let metrics: CoordinatorMetrics
    private let numbers: RequestNumbers
    private let readyChanged: (Bool) -> Void
    /// Requests of the client plane that are to be checked and tokenised elsewhere.
    let preparation: PreparationQueue

    var scheduler: Scheduler
    var membership: Membership
    var requests: [UInt64: Request] = [:]
    /// Requests of the client plane that are being tokenised elsewhere.
    var preparing: Set<UInt64> = []
    /// Who got tokens of the results at hand.
    private var filled: [any RequestSink] = []
    var counts = Counts()
    var workers: [UInt64: WorkerSession] = [:]
    var clients: [ObjectIdentifier: ClientSession] = [:]
    /// Those that the metrics count already.
    var reportedPreemptions: UInt64 = 0
    private var lastSession: UInt64 = 0
    private var isPumpScheduled = false
    private var ticks: RepeatedTask?
    private var lastTick: UInt64?
    private(set) var isStopped = false

    struct Counts {
        var finished: UInt64 = 0
        var failed: UInt64 = 0
        var cancelled: UInt64 = 0
    }

    init(
        loop: any EventLoop, configuration: CoordinatorConfiguration, identity: LocalIdentity, check: RequestCheck,
        numbers: RequestNumbers, logger: Logger, metrics: CoordinatorMetrics, preparation: PreparationQueue,
        readyChanged: @escaping (Bool) -> Void
    ) {
        self.loop = loop
        self.configuration = configuration
        self.identity = identity
        self.check = check
        self.logger = logger
        self.metrics = metrics
        self.numbers = numbers
        self.readyChanged = readyChanged
        self.preparation = preparation
        manifestDigest = configuration.manifest.digest

        var limits = Scheduler.Limits()
        limits.stepTokens = configuration.stepTokens
        limits.maximumSequencesPerLane = configuration.maximumSequencesPerLane
        limits.queueLimit = configuration.queueLimit
        limits.queueTokenLimit = configuration.queueTokenLimit
        limits.tenantWeights = configuration.tenantWeights
        limits.queueTimeoutMilliseconds = UInt64(configuration.queueTimeoutMilliseconds)
        scheduler = Scheduler(limits: limits)

        var rules = Membership.Rules()
        rules.heartbeatTimeoutMilliseconds = UInt64(configuration.heartbeatTimeoutMilliseconds)
        let shape = configuration.manifest.shape
        let capacity = Capacity(manifest: configuration.manifest)
        let pages = configuration.pagesPerWorker
        membership = Membership(
            layout: configuration.layout, rules: rules,
            even: { names, stages throws(TopologyError) in try .even(shape: shape, workers: names, stages: stages) },
            checkMemory: { topology, memory throws(TopologyError) in
                try capacity.check(topology, pages: pages, memoryBytes: memory)
            })
    }

    /// Milliseconds of a clock that only goes forward.
    var now: UInt64 { loop.now.uptimeNanoseconds / 1_000_000 }
    /// The same in microseconds: the scheduler's time.
    var microseconds: UInt64 { loop.now.uptimeNanoseconds / 1_000 }

    func start() {
        let core = NIOLoopBound(self, eventLoop: loop)
        ticks = loop.scheduleRepeatedTask(initialDelay: Self.tickInterval, delay: Self.tickInterval) { _ in
            core.value.tick()
        }
    }

    /// Ends everything: requests fail, connections close.
    /// - Returns: succeeds when the sockets of clients and workers are closed, so that they have heard why.
    func stop() -> EventLoopFuture<Void> {
        isStopped = true
        ticks?.cancel()
        for (id, request) in requests {
            scheduler.finish(id)
            metrics.failed(code: RequestError.shuttingDown.code)
            request.sink.failed(.shuttingDown)
        }
        requests = [:]
        let failure = Failure(code: "shutting_down", message: "the coordinator is shutting down")
        let connections = clients.values.map(\.connection) + workers.values.map(\.control)
        for client in clients.values { client.connection.close(failure) }
        for worker in workers.values { worker.close(failure) }
        readyChanged(false)
        return .andAllComplete(connections.map(\.socketClosed), on: loop)
    }

    private func tick() {
        let now = now
        if let lastTick, now > lastTick, now - lastTick > Self.longestTick {
            membership.stoodStill(milliseconds: now - lastTick)
        }
        lastTick = now
        perform(membership.tick(now: now))
        handle(scheduler.expire(now: microseconds))
        let timeout = UInt64(configuration.stepTimeoutMilliseconds)
        let stuck = now > timeout ? scheduler.lanes(waitingSince: (now - timeout) * 1_000) : []
        if !stuck.isEmpty {
            for lane in stuck {
                logger.error("a step did not come back", metadata: ["lane": "\(lane)"])
                handle(
                    scheduler.close(
                        lane: lane, code: "step_timeout", message: "a step did not come back for \(timeout) ms"))
            }
            perform(membership.stuck())
        }
        observe()
        schedulePump()
    }

    func makeRequestID() -> UInt64 { numbers.next() }

    /// Takes a connection whose handshake is done.
    func accept(_ connection: Connection) throws(Failure) -> any ConnectionDelegate {
        guard !isStopped else {
            throw Failure(code: "shutting_down", message: "the coordinator is shutting down")
        }
        switch connection.peer.role {
        case .client:
            let session = ClientSession(connection: connection, core: self)
            clients[ObjectIdentifier(connection)] = session
            return session
        case .workerControl:
            lastSession += 1
            return WorkerSession(number: lastSession, control: connection, core: self)
        default:
            throw Failure(code: "role_unexpected", message: "the coordinator serves clients and workers")
        }
    }

    // MARK: Requests

    /// - Throws: why the request is refused; the sink is not called then.
    func admit(
        id: UInt64, prompt: [Int32], sampling: ProtoSamplingParameters, scoreTop: UInt32?, request: Request
    ) throws(RequestError) {
        guard !isStopped else { throw .shuttingDown }
        // While everybody loads anew after a loss, requests wait with those that are replayed.
        guard scheduler.hasOpenLane || (membership.isLoading && membership.epoch > 1) else { throw .notReady }
        var work = Scheduler.Work(id: id, prompt: prompt, sampling: sampling, scoreTop: scoreTop)
        work.tenant = request.terms.tenant
        work.priority = request.terms.priority
        work.deadline = request.terms.deadline.map { $0 * 1_000 }
        if let machine = request.generation { work.maximumTokens = machine.maximumTokens }
        try scheduler.admit(work, now: microseconds)
        requests[id] = request
        if request.generation != nil {
            request.sink.accepted(
                Acceptance(
                    requestID: "\(String(identity.incarnation, radix: 16))-\(id)", model: configuration.modelName,
                    seed: sampling.seed, promptTokens: prompt.count))
        }
        schedulePump()
    }

    /// Ends a request that its reader no longer wants. Unknown ids have ended already.
    func cancel(_ id: UInt64) {
        if preparing.remove(id) != nil {
            counts.cancelled += 1
            metrics.aborted()
        }
        guard let request = requests.removeValue(forKey: id) else { return }
        scheduler.finish(id)
        counts.cancelled += 1
        metrics.aborted()
        request.sink.finished(
            .cancelled, request.generation?.usage ?? Usage(promptTokens: 0, completionTokens: 0))
        schedulePump()
    }

    func fail(_ id: UInt64, _ error: RequestError) {
        guard let request = requests.removeValue(forKey: id) else { return }
        scheduler.finish(id)
        counts.failed += 1
        metrics.failed(code: error.code)
        request.sink.failed(error)
    }

    func handle(_ outputs: [Scheduler.Output]) {
        guard !outputs.isEmpty else { return }
        let moment = NIODeadline.now()
        for output in outputs {
            switch output {
            case .token(let id, let token): take(token, for: id, at: moment)
            case .scored(let id, let rows): take(rows, for: id)
            case .failed(let id, let error): fail(id, error)
            }
        }
        for sink in filled { sink.callReader() }
        for sink in filled { sink.wakeReader() }
        filled.removeAll(keepingCapacity: true)
    }

    private func take(_ token: Int32, for id: UInt64, at moment: NIODeadline) {
        guard let request = requests[id], let output = request.generation?.append(token),
            let promptTokens = request.generation?.promptTokens
        else {
            scheduler.finish(id)
            return
        }
        if request.times.firstToken == nil, let start = scheduler.start(of: id) {
            metrics.started(&request.times, waited: .microseconds(Int64(clamping: start.waitedMicroseconds)))
            metrics.prefix(queriedTokens: promptTokens, hitTokens: start.cachedTokens)
            request.generation?.cachedTokens = start.cachedTokens
        }
        metrics.token(&request.times, promptTokens: promptTokens, at: moment)
        guard request.sink.delta(text: output.text, tokens: [token]) else {
            fail(id, .slowReader(limit: configuration.readerTokenLimit))
            return
        }
        filled.append(request.sink)
        if let reason = output.finish, let usage = request.generation?.usage {
            requests[id] = nil
            scheduler.finish(id)
            counts.finished += 1
            metrics.finished(reason, usage, request.times)
            request.sink.finished(reason, usage)
        }
    }

    private func take(_ rows: ProtoScoredRows, for id: UInt64) {
        guard let request = requests[id], request.score != nil else {
            scheduler.finish(id)
            return
        }
        do throws(RequestError) {
            guard let response = try request.score?.append(rows) else { return }
            requests[id] = nil
            scheduler.finish(id)
            counts.finished += 1
            metrics.scored(promptTokens: response.ids.count)
            request.sink.scored(response)
        } catch {
            fail(id, error)
        }
    }

    // MARK: Steps

    /// Plans at the end of this tick of the loop, so that what arrived together goes into one step.
    func schedulePump() {
        guard !isPumpScheduled, !isStopped else { return }
        isPumpScheduled = true
        let core = NIOLoopBound(self, eventLoop: loop)
        loop.execute { core.value.pump() }
    }

    private func pump() {
        isPumpScheduled = false
        guard !isStopped else { return }
        for planned in scheduler.plan(now: microseconds) {
            metrics.stepPlanned(decodeRows: planned.decodeRows, prefillRows: planned.prefillRows)
            let frame = Frame(.step, planned.step, correlation: planned.step.stepID, epoch: planned.epoch)
            // A home without a connection is lost in this very moment, and its lane will be closed.
            worker(named: planned.home)?.data?.send(frame)
        }
        observe()
    }

    func worker(named name: String) -> WorkerSession? {
        membership.members[name].flatMap { workers[$0.session] }
    }

    // MARK: The cluster's changes

    func perform(_ changes: [Membership.Change]) {
        for change in changes {
            switch change {
            case .joined(let name):
                logger.info("worker joined", metadata: ["worker": "\(name)"])
            case .lost(let name, let session, let failure):
                logger.warning("worker lost", metadata: ["worker": "\(name)", "reason": "\(failure)"])
                workers.removeValue(forKey: session)?.close(failure)
            case .placed(let placed):
                logger.info("placement", metadata: ["epoch": "\(placed.epoch)", "lanes": "\(placed.lanes.count)"])
                scheduler.suspend()
                assign(placed)
            case .opened(let placed):
                logger.info("lanes open", metadata: ["epoch": "\(placed.epoch)"])
                let pages = LanePages.divide(pages: configuration.pagesPerWorker, among: placed.lanes)
                scheduler.open(
                    epoch: placed.epoch,
                    lanes: zip(placed.lanes, pages).map { Scheduler.LaneSpecification(homes: $0, pages: $1) },
                    cost: StepCost(manifest: configuration.manifest, topology: placed.topology))
            case .closed(let lanes, let failure):
                for lane in lanes {
                    handle(scheduler.close(lane: lane, code: failure.code, message: failure.message))
                }
            }
        }
        guard !changes.isEmpty else { return }
        observe()
        readyChanged(scheduler.hasOpenLane && !isStopped)
        if !scheduler.hasOpenLane, !membership.isLoading {
            handle(
                scheduler.failWaiting(.workerLost("no lane is left: a worker of each was lost")))
        }
        schedulePump()
    }

    private func assign(_ placed: Membership.Placed) {
        let assign = ProtoAssign.with {
            $0.placement = placement(placed)
            $0.pages = UInt32(clamping: configuration.pagesPerWorker)
        }
        for name in placed.topology.workers {
            guard let worker = worker(named: name) else { continue }
            worker.control.send(Frame(.assign, assign, epoch: placed.epoch))
            worker.dial()
        }
    }

    private func placement(_ placed: Membership.Placed) -> ProtoPlacement {
        .with {
            $0.epoch = placed.epoch
            $0.stages = placed.topology.stages.map { stage in
                .with {
                    $0.firstLayer = UInt32(clamping: stage.layers.lowerBound)
                    $0.layerCount = UInt32(clamping: stage.layers.count)
                    $0.members = stage.members.map { member in
                        let registration = membership.members[member.name]?.registration
                        return .with {
                            $0.name = member.name
                            $0.incarnation = registration?.incarnation ?? 0
                            $0.dataAddress = registration?.dataAddress ?? ""
                            $0.experts = member.experts.map { UInt32(clamping: $0) }
                        }
                    }
                }
            }
            $0.lanes = placed.lanes.map { homes in .with { $0.workers = homes } }
        }
    }
}
