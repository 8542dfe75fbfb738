import DequeModule
package import Wire

/// Decides which rows go down which lane next, and owns every page table. Bookkeeping without tensors, sockets or
/// clocks: a value that takes events and returns what follows from them; `plan` then says which steps to send.
///
/// - A sequence belongs to one lane and is in one step at a time; a lane has up to as many steps (waves) in flight as
///   it has stages.
/// - Pages are taken as positions need them. When a lane has none left, the youngest sequence gives its pages back
///   and is replayed later, prompt and answer so far, with the same result (design, section 4). The oldest can always
///   go on, because a lane's pages hold the longest sequence that is admitted.
/// - Requests are served first come first served; whoever was sent back goes before whoever never ran.
package struct Scheduler: Sendable {
    package struct Limits: Sendable {
        package var prefillChunkRows = 128
        package var maximumSequencesPerLane = 64
        package var sequencesPerWave = 4
        package var queueLimit = 256
        package var queueTimeoutMilliseconds: UInt64 = 120_000

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
        case failed(id: UInt64, code: String, message: String)
    }

    package struct PlannedStep: Sendable, Equatable {
        package var epoch: UInt64
        /// Name of the lane's first home.
        package var home: String
        package var step: ProtoStep
    }

    /// Tokens of a KV page.
    package static let pageTokens = 32
    /// Most scored (token, logit) pairs in a step: more than one request may ask for, and half of what a worker takes, so
    /// that no request fails because of its neighbours.
    package static let scorePairsInStep = 1 << 19

    package let limits: Limits
    package internal(set) var epoch: UInt64 = 0
    package internal(set) var lanes: [Lane] = []
    var sequences: [UInt64: Sequence] = [:]
    /// Sent back and to be replayed, oldest first. Older than everything in `waiting`.
    var replays: [UInt64] = []
    /// Never ran. Ids of requests that ended meanwhile stay until they come to the front.
    var waiting: Deque<UInt64> = []
    package internal(set) var waitingCount = 0
    package internal(set) var preemptions: UInt64 = 0
    /// The time that it was told last.
    var now: UInt64 = 0

    package init(limits: Limits) {
        self.limits = limits
    }

    package var runningCount: Int { lanes.reduce(0) { $0 + $1.running.count } }
    package var hasOpenLane: Bool { lanes.contains { $0.isOpen } }

    // MARK: Requests

    /// - Throws: `queue_full`.
    package mutating func admit(_ work: Work, now: UInt64) throws(RequestError) {
        guard waitingCount < limits.queueLimit else { throw .queueFull(limit: limits.queueLimit) }
        sequences[work.id] = Sequence(work: work, waitingSince: now)
        waiting.append(work.id)
        waitingCount += 1
    }

    /// The sequence has ended, for whatever reason: its pages are free as soon as no step in flight names them. Unknown
    /// ids are ignored, so that a cancellation may cross the end.
    package mutating func finish(_ id: UInt64) {
        guard let sequence = sequences[id] else { return }
        guard let index = sequence.lane else {
            sequences[id] = nil
            waitingCount -= 1
            if let at = replays.firstIndex(of: id) {
                replays.remove(at: at)
            } else if waiting.count > 2 * limits.queueLimit {
                // Clients that come and go behind a blocked head must not make the queue grow.
                waiting.removeAll { sequences[$0] == nil }
            }
            return
        }
        if sequence.inFlight != nil {
            sequences[id]?.ending = true
        } else {
            release(id, from: index)
            sequences[id] = nil
        }
    }

    /// Fails what has waited for too long.
    package mutating func expire(now: UInt64) -> [Output] {
        self.now = now
        var outputs: [Output] = []
        for id in replays where isExpired(id) {
            finish(id)
            outputs.append(.failed(id: id, RequestError.queueTimeout))
        }
        while let id = waiting.first {
            guard sequences[id] != nil else {
                waiting.removeFirst()
                continue
            }
            guard isExpired(id) else { break }
            waiting.removeFirst()
            finish(id)
            outputs.append(.failed(id: id, RequestError.queueTimeout))
        }
        return outputs
    }

    private func isExpired(_ id: UInt64) -> Bool {
        guard let since = sequences[id]?.waitingSince else { return false }
        return now >= since && now - since > limits.queueTimeoutMilliseconds
    }

    /// Fails everything that waits, because no lane will come.
    package mutating func failWaiting(code: String, message: String) -> [Output] {
        let ids = replays + waiting.filter { sequences[$0] != nil }
        for id in ids { finish(id) }
        waiting.removeAll()
        return ids.map { .failed(id: $0, code: code, message: message) }
    }

    /// Takes a sequence out of its lane and puts its pages back.
    mutating func release(_ id: UInt64, from index: Int) {
        guard let sequence = sequences[id] else { return }
        if let at = lanes[index].running.firstIndex(of: id) { lanes[index].running.remove(at: at) }
        lanes[index].free += sequence.pages.reversed()
        if sequence.introduced { lanes[index].released.append(id) }
        if lanes[index].shortOf == id { lanes[index].shortOf = nil }
        sequences[id]?.leaveLane()
    }
}

extension Scheduler.Output {
    static func failed(id: UInt64, _ error: RequestError) -> Self {
        .failed(id: id, code: error.code, message: error.message)
    }
}
