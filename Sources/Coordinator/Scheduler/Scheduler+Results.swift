package import Wire

extension Scheduler {
    /// How long a step took that comes back now, without its wait for the one before; nil where it is not under way.
    package func stepTime(_ stepID: UInt64, lane: UInt32, epoch: UInt64, now: UInt64) -> UInt64? {
        guard epoch == self.epoch, let index = Int(exactly: lane), lanes.indices.contains(index),
            let sent = lanes[index].inFlight[stepID]?.sent
        else { return nil }
        let began = lanes[index].homes.count == 1 ? max(sent, lanes[index].lastResult) : sent
        return now > began ? now - began : 0
    }

    /// Takes what a step gave. A result of another epoch, or of a step that is not under way, is dropped.
    /// - Parameter vocabulary: tokens at or above it are the worker's fault and fail their sequence.
    package mutating func receive(
        _ result: ProtoStepResult, epoch: UInt64, vocabulary: Int, now: UInt64
    ) -> [Output] {
        self.now = max(self.now, now)
        guard let (lane, step) = takeStep(result.stepID, lane: result.lane, epoch: epoch) else { return [] }
        lanes[lane].gaps = 0
        // Workers answer in the order of the step's rows; whoever does not is looked up.
        var tokens = Answers(result.tokens) { $0.sequence }
        var scores = Answers(result.scores) { $0.sequence }
        var failures = Answers(result.failures) { $0.sequence }

        var outputs: [Output] = []
        outputs.reserveCapacity(result.tokens.count)
        for rows in step.rows {
            let isRepeating = sequences[rows.slot].repeating
            guard let slot = land(rows), !isRepeating else { continue }
            if let failure = failures.take(rows.id)?.failure {
                outputs.append(fail(slot, code: failure.code, message: failure.message))
                continue
            }
            guard rows.positions.upperBound <= sequences[slot].tokens.count else {
                outputs.append(failProtocol(slot, in: lane, "the result came before that of the step before"))
                continue
            }
            note(rows.positions, slot, in: lane)
            if sequences[slot].scoreTop != nil {
                guard let scored = scores.take(rows.id), scored.top.count == rows.positions.count,
                    scored.position == UInt32(clamping: rows.positions.lowerBound)
                else {
                    outputs.append(failProtocol(slot, in: lane, "the result has no scores for it"))
                    continue
                }
                outputs.append(.scored(id: rows.id, rows: scored))
            } else if rows.positions.upperBound == sequences[slot].tokens.count {
                guard let token = tokens.take(rows.id)?.token, token >= 0, token < vocabulary else {
                    outputs.append(failProtocol(slot, in: lane, "the result has no valid token for it"))
                    continue
                }
                sequences[slot].tokens.append(token)
                queue.charge(sequences[slot].tenant, tokens: 1)
                outputs.append(.token(id: rows.id, token: token))
            }
        }
        return outputs
    }

    /// A home could not finish a step. Tables that it missed are sent anew; anything else ends the step's sequences.
    package mutating func stepFailed(_ failed: ProtoStepFailed, epoch: UInt64, now: UInt64) -> [Output] {
        self.now = max(self.now, now)
        guard let (lane, step) = takeStep(failed.stepID, lane: failed.lane, epoch: epoch) else { return [] }
        let gap = failed.failure.code == "page_table_gap"
        if gap {
            lanes[lane].gaps += 1
            lanes[lane].resynchronise = true
        }
        // A home that reports gap after gap, even after whole tables, is broken.
        let retry = gap && lanes[lane].gaps <= Self.gapLimit
        var outputs: [Output] = []
        for rows in step.rows {
            sequences[rows.slot].repeating = true
            guard let slot = land(rows), !retry else { continue }
            outputs.append(fail(slot, code: Self.code(of: failed.failure), message: failed.failure.message))
        }
        return outputs
    }

    /// A home may notice that another worker is gone before the coordinator does; to a client it is the same.
    private static func code(of failure: ProtoFailure) -> String {
        switch failure.code {
        case "peer_lost", "expert_unreachable": "worker_lost"
        case "": "step_failed"
        default: failure.code
        }
    }

    /// As many steps as a lane can have in flight when one gap fails them all, and again.
    private static let gapLimit = 64

    private mutating func takeStep(
        _ stepID: UInt64, lane: UInt32, epoch: UInt64
    ) -> (lane: Int, step: FlyingStep)? {
        guard let time = stepTime(stepID, lane: lane, epoch: epoch, now: now), let index = Int(exactly: lane),
            let step = lanes[index].inFlight.removeValue(forKey: stepID)
        else { return nil }
        lanes[index].stepTime = time
        lanes[index].lastResult = now
        return (index, step)
    }

    /// Rows are back.
    /// - Returns: the slot of a sequence that goes on.
    private mutating func land(_ rows: FlyingStep.Rows) -> Int? {
        let slot = rows.slot
        sequences[slot].flights -= 1
        let isBack = sequences[slot].flights == 0
        if sequences[slot].ending {
            if isBack { end(slot) }
            return nil
        }
        if isBack, sequences[slot].repeating {
            sequences[slot].repeating = false
            sequences[slot].scheduled = sequences[slot].computed
            sequences[slot].early = []
        }
        return slot
    }

    /// Positions are computed. Pages that are full from now on can be found by whoever needs the same.
    private mutating func note(_ positions: Range<Int>, _ slot: Int, in lane: Int) {
        let before = sequences[slot].computed
        guard positions.lowerBound == before else {
            sequences[slot].early.append(positions)
            return
        }
        var end = positions.upperBound
        while let next = sequences[slot].early.firstIndex(where: { $0.lowerBound == end }) {
            end = sequences[slot].early.remove(at: next).upperBound
        }
        sequences[slot].computed = end
        for index in before / Self.pageTokens..<end / Self.pageTokens {
            let page = sequences[slot].pages[index]
            lanes[lane].pool.name(
                page, sequences[slot].tokens, page: index,
                after: index > 0 ? sequences[slot].pages[index - 1] : nil)
            lanes[lane].pool.complete(page)
        }
    }

    private mutating func fail(_ slot: Int, code: String, message: String) -> Output {
        let id = sequences[slot].id
        end(slot)
        return .failed(id: id, RequestError(.failed, code: code, message: message))
    }

    private mutating func failProtocol(_ slot: Int, in lane: Int, _ message: String) -> Output {
        fail(slot, code: "worker_protocol", message: "lane \(lane): \(message)")
    }
}

/// What a step gave, taken in the order in which it is asked for, or looked up.
private struct Answers<Answer> {
    private let answers: [Answer]
    private let key: (Answer) -> UInt64
    private var next = 0
    private var index: [UInt64: Int]?

    init(_ answers: [Answer], key: @escaping (Answer) -> UInt64) {
        self.answers = answers
        self.key = key
    }

    mutating func take(_ id: UInt64) -> Answer? {
        guard !answers.isEmpty else { return nil }
        if next < answers.count, key(answers[next]) == id {
            next += 1
            return answers[next - 1]
        }
        if index == nil {
            index = Dictionary(answers.indices.map { (key(answers[$0]), $0) }, uniquingKeysWith: { _, last in last })
        }
        return index?[id].map { answers[$0] }
    }
}
