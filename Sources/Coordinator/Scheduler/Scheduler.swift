import Foundation
import HeapModule
package import Wire

/// Decides which rows go down which lane next, and owns every page table. Bookkeeping without tensors, sockets or
/// clocks: a value that takes events and returns what follows from them; `plan` then says which steps to send. Times are
/// microseconds of a clock that only goes forward.
///
/// - Requests wait in a `FairQueue`; whose turn it is gets a place in a lane, and until it has one nobody overtakes it.
/// - A sequence belongs to one lane. A lane has up to as many steps (waves) in flight as it has stages; a sequence is in
///   one of them, but for a long prompt, whose parts follow each other through the stages.
/// - A lane of one stage whose steps are short has one more step in flight, planned ahead: the worker puts the tokens that
///   it samples into the step that waits, so that it need not wait for the coordinator between two steps.
/// - A step's rows are bounded: decode rows come first, rows of prompts fill the rest.
/// - Pages are taken as positions need them and shared by content (`PagePool`). When a lane has none left, the youngest
///   sequence gives its pages back and is replayed later, prompt and answer so far, with the same result (design,
///   section 4). The oldest can always go on, because a lane's pages hold the longest sequence that is admitted.
/// - A tenant that has fewer sequences running than its share, and waits, takes the place of the youngest of a tenant that
///   has more.
package struct Scheduler: Sendable {
    package struct Limits: Sendable {
        /// Most rows in a step, at least 2.
        package var stepTokens = 256
        package var maximumSequencesPerLane = 64
        /// Most requests that wait, and most tokens in their prompts.
        package var queueLimit = 256
        package var queueTokenLimit = 1 << 20
        package var queueTimeoutMilliseconds: UInt64 = 120_000
        /// A step is planned ahead where the last one took less: the way to the coordinator and back, half a millisecond, is
        /// then worth more than that newcomers wait for one step less.
        package var planAheadMicroseconds: UInt64 = 20_000
        /// Shares of tenants, above 0; 1 where a tenant has none.
        package var tenantWeights: [String: Double] = [:]

        package init() {}
    }

    /// A request as the scheduler sees it: checked, tokenised.
    package struct Work: Sendable {
        /// Counts up in order of arrival and is never used twice: it is also the sequence's name on the wire.
        package var id: UInt64
        /// Not empty.
        package var prompt: [Int32]
        package var sampling: ProtoSamplingParameters
        /// Rows are scored, this many best (id, logit) pairs for each, and nothing is sampled.
        package var scoreTop: UInt32?
        /// Most tokens that are wanted; more are only computed where the answer ends before.
        package var maximumTokens = Int.max
        package var tenant = ""
        /// Lower is served earlier, within a tenant.
        package var priority = 0
        /// When the answer must be complete.
        package var deadline: UInt64?

        package init(id: UInt64, prompt: [Int32], sampling: ProtoSamplingParameters, scoreTop: UInt32? = nil) {
            self.id = id
            self.prompt = prompt
            self.sampling = sampling
            self.scoreTop = scoreTop
        }
    }

    package enum Output: Sendable, Equatable {
        /// The next token. Unless `finish` is called before the next `plan`, the sequence goes on.
        case token(id: UInt64, token: Int32)
        /// Scores of some of a sequence's rows. Positions may repeat after a replay, with the same bits.
        case scored(id: UInt64, rows: ProtoScoredRows)
        /// The sequence ended and is forgotten.
        case failed(id: UInt64, RequestError)
    }

    package struct PlannedStep: Sendable, Equatable {
        package var epoch: UInt64
        /// Name of the lane's first home.
        package var home: String
        package var step: ProtoStep
        /// Rows that continue answers, and rows of prompts.
        package var decodeRows: Int
        package var prefillRows: Int
    }

    /// How a sequence began to run.
    package struct Start: Sendable, Equatable {
        /// From its admission.
        package var waitedMicroseconds: UInt64
        /// Positions of the prompt whose keys and values others had computed.
        package var cachedTokens: Int
    }

    /// Tokens of a KV page.
    package static let pageTokens = 32
    /// Most scored (token, logit) pairs in a step: more than one request may ask for, and half of what a worker takes, so
    /// that no request fails because of its neighbours.
    package static let scorePairsInStep = 1 << 19

    package let limits: Limits
    package internal(set) var epoch: UInt64 = 0
    package internal(set) var lanes: [Lane] = []
    package internal(set) var preemptions: UInt64 = 0
    /// Tokens of prompts that began to run, and those of them whose keys and values others had computed.
    package internal(set) var prefixQueriedTokens: UInt64 = 0
    package internal(set) var prefixHitTokens: UInt64 = 0
    var cost: StepCost?
    /// By slot; free slots hold sequences of id 0.
    var sequences: [Sequence] = []
    private var freeSlots: [Int] = []
    private var slots: [UInt64: Int] = [:]
    var queue: FairQueue
    private var timers = Heap<Timer>()
    var startRate = Rate()
    /// The time that it was told last.
    var now: UInt64 = 0

    private struct Timer: Comparable {
        let time: UInt64
        let id: UInt64

        static func < (left: Timer, right: Timer) -> Bool { (left.time, left.id) < (right.time, right.id) }
    }

    package init(limits: Limits) {
        self.limits = limits
        queue = FairQueue(weights: limits.tenantWeights)
    }

    package var waitingCount: Int { queue.count }
    package var waitingTokens: Int { queue.tokens }
    package var runningCount: Int { lanes.reduce(0) { $0 + $1.running.count } }
    package var hasOpenLane: Bool { lanes.contains { $0.isOpen } }

    // MARK: Requests

    /// - Throws: `queue_full`.
    package mutating func admit(_ work: Work, now: UInt64) throws(RequestError) {
        self.now = max(self.now, now)
        guard
            queue.hasRoom(
                for: work.tenant, tokens: work.prompt.count, limit: limits.queueLimit,
                tokenLimit: limits.queueTokenLimit)
        else { throw .queueFull(requests: queue.count, tokens: queue.tokens, retryAfterSeconds: retryAfterSeconds) }
        let sequence = Sequence(work: work, tenant: queue.tenant(work.tenant), admitted: self.now)
        let slot: Int
        if let free = freeSlots.popLast() {
            sequences[free] = sequence
            slot = free
        } else {
            slot = sequences.count
            sequences.append(sequence)
        }
        slots[work.id] = slot
        enqueue(slot)
        if let deadline = sequence.deadline { setTimer(deadline, work.id) }
    }

    /// The sequence has ended, for whatever reason: its pages are free as soon as no step in flight names them. Unknown
    /// ids are ignored, so that a cancellation may cross the end.
    package mutating func finish(_ id: UInt64) {
        guard let slot = slots[id], !sequences[slot].ending else { return }
        end(slot)
    }

    /// How the sequence began to run, known when its first token comes; nil before it has a lane, and for one that is
    /// unknown.
    package func start(of id: UInt64) -> Start? {
        guard let slot = slots[id], let waited = sequences[slot].waited else { return nil }
        return Start(waitedMicroseconds: waited, cachedTokens: sequences[slot].cachedTokens)
    }

    /// When those who wait now will have been served, at the pace of the last seconds; 1 to 600.
    package var retryAfterSeconds: Int {
        let rate = startRate.perSecond(at: now)
        return rate > 0 ? Int(min(600, max(1, (Double(queue.count) / rate).rounded(.up)))) : 1
    }

    /// Fails what has waited for too long, and what was not complete at its deadline.
    package mutating func expire(now: UInt64) -> [Output] {
        self.now = max(self.now, now)
        var outputs: [Output] = []
        while let timer = timers.min, timer.time <= self.now {
            timers.removeMin()
            guard let slot = slots[timer.id], !sequences[slot].ending else { continue }
            let error: RequestError
            if let deadline = sequences[slot].deadline, deadline <= self.now {
                error = .deadlineExceeded
            } else if sequences[slot].lane == nil, queueTimeout(of: slot) <= self.now {
                error = .queueTimeout
            } else {
                continue
            }
            end(slot)
            outputs.append(.failed(id: timer.id, error))
        }
        return outputs
    }

    /// Fails everything that waits, because no lane will come.
    package mutating func failWaiting(_ error: RequestError) -> [Output] {
        let waiting = sequences.indices.filter { sequences[$0].id != 0 && sequences[$0].lane == nil }
        let ids = waiting.map { sequences[$0].id }.sorted()
        for slot in waiting { end(slot) }
        return ids.map { .failed(id: $0, error) }
    }

    // MARK: Slots

    func slot(of id: UInt64) -> Int? { slots[id] }

    /// Ends a sequence, now or when its steps are back.
    mutating func end(_ slot: Int) {
        if let lane = sequences[slot].lane {
            guard sequences[slot].flights == 0 else {
                sequences[slot].ending = true
                return
            }
            release(slot, from: lane)
            queue.stop(tenant: sequences[slot].tenant)
        } else {
            queue.remove(
                sequences[slot].id, tenant: sequences[slot].tenant, tokens: sequences[slot].tokens.count)
        }
        vacate(slot)
    }

    mutating func vacate(_ slot: Int) {
        slots[sequences[slot].id] = nil
        sequences[slot] = Sequence.vacant
        freeSlots.append(slot)
    }

    /// Makes a sequence without a lane wait for one.
    mutating func enqueue(_ slot: Int) {
        sequences[slot].waitingSince = now
        let sequence = sequences[slot]
        queue.push(
            sequence.id, tenant: sequence.tenant, priority: sequence.priority, tokens: sequence.tokens.count)
        setTimer(queueTimeout(of: slot), sequence.id)
    }

    private func queueTimeout(of slot: Int) -> UInt64 {
        sequences[slot].waitingSince + limits.queueTimeoutMilliseconds * 1_000 + 1
    }

    private mutating func setTimer(_ time: UInt64, _ id: UInt64) {
        timers.insert(Timer(time: time, id: id))
        // Those of requests that have ended must not pile up.
        if timers.count > 4 * slots.count + 1024 { timers = Heap(timers.unordered.filter { slots[$0.id] != nil }) }
    }

    /// Takes a sequence out of its lane and puts its pages back. No step names them any more.
    mutating func release(_ slot: Int, from index: Int) {
        let id = sequences[slot].id
        if let at = lanes[index].place(of: id, sequences), lanes[index].running[at] == slot {
            lanes[index].running.remove(at: at)
        }
        lanes[index].pool.release(sequences[slot].pages, holder: id)
        if sequences[slot].introduced { lanes[index].released.append(id) }
        if lanes[index].shortOf == id { lanes[index].shortOf = nil }
        sequences[slot].leaveLane()
    }
}

/// Events in a second, of the last ten or so.
struct Rate: Sendable {
    private static let window = 10_000_000.0
    private var count = 0.0
    private var last: UInt64 = 0

    mutating func note(at now: UInt64) {
        count = decayed(at: now) + 1
        last = now
    }

    func perSecond(at now: UInt64) -> Double { decayed(at: now) / (Self.window / 1_000_000) }

    private func decayed(at now: UInt64) -> Double {
        count * exp(-Double(now >= last ? now - last : 0) / Self.window)
    }
}
