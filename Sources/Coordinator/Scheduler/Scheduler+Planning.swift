import SwiftProtobuf
import Wire

extension Scheduler {
    /// Starts what waits and fits, and builds every step that can be sent now.
    package mutating func plan(now: UInt64) -> [PlannedStep] {
        self.now = max(self.now, now)
        evict()
        repeat { start() } while evict()
        var steps: [PlannedStep] = []
        for index in lanes.indices where lanes[index].isOpen {
            if lanes[index].resynchronise {
                guard lanes[index].inFlight.isEmpty else { continue }
                forgetTables(of: index)
            }
            while let step = buildStep(for: index) { steps.append(step) }
        }
        return steps
    }

    /// - Returns: whether anybody gave its pages back.
    @discardableResult private mutating func evict() -> Bool {
        var hasEvicted = false
        for index in lanes.indices {
            let leaving = lanes[index].running.filter { sequences[$0].evicted && sequences[$0].flights == 0 }
            for slot in leaving { preempt(slot, in: index) }
            if !leaving.isEmpty { hasEvicted = true }
        }
        return hasEvicted
    }

    private mutating func preempt(_ slot: Int, in index: Int) {
        preemptions += 1
        release(slot, from: index)
        enqueue(slot)
        queue.stop(tenant: sequences[slot].tenant)
    }

    // MARK: One step

    private struct Candidate {
        let slot: Int
        let id: UInt64
        /// Decode rows: the last step. Prompts: the tenant's service, then the priority.
        let order: (Double, Int)
    }

    /// The next step of a lane; nil where there is nothing to send, or enough is under way.
    private mutating func buildStep(for index: Int) -> PlannedStep? {
        var decodes: [Candidate] = []
        var prompts: [Candidate] = []
        var rows = 0
        let isAhead = plansAhead(index)
        for slot in lanes[index].running {
            rows += max(1, sequences[slot].tokens.count - sequences[slot].computed)
            guard !sequences[slot].evicted, !sequences[slot].ending, !sequences[slot].repeating,
                sequences[slot].remaining > 0 || (isAhead && sequences[slot].canGoAhead)
            else { continue }
            let id = sequences[slot].id
            if isDecode(slot) {
                decodes.append(Candidate(slot: slot, id: id, order: (Double(sequences[slot].lastStep), 0)))
            } else if sequences[slot].flights == 0 || sequences[slot].scoreTop == nil {
                prompts.append(
                    Candidate(
                        slot: slot, id: id,
                        order: (queue.service(of: sequences[slot].tenant), sequences[slot].priority)))
            }
        }
        guard !decodes.isEmpty || !prompts.isEmpty else { return nil }
        let stages = lanes[index].homes.count
        let waves = cost?.waves(rows: rows, stages: stages) ?? min(rows, stages)
        guard lanes[index].inFlight.count < waves + (isAhead ? 1 : 0) else { return nil }

        // The waves share the rows. Whoever waited longest for a step is in it; among those, the oldest comes first to
        // pages. An eighth of the step is left to prompts, so that no number of answers keeps them out.
        let share = (lanes[index].running.count + waves - 1) / waves
        let room = prompts.isEmpty ? limits.stepTokens : max(1, limits.stepTokens * 7 / 8)
        var step = StepRows(limit: min(limits.stepTokens, max(2, (rows + waves - 1) / waves)))
        decodes.sort { ($0.order.0, $0.id) < ($1.order.0, $1.id) }
        prompts.sort { ($0.order.0, $0.order.1, $0.id) < ($1.order.0, $1.order.1, $1.id) }
        for candidate in decodes.prefix(min(share, room)).sorted(by: { $0.id < $1.id }) {
            add(candidate.slot, to: &step, in: index)
        }
        for candidate in prompts { add(candidate.slot, to: &step, in: index) }
        if step.rows.isEmpty {
            // All of those lack pages: with everybody in turn, the oldest gets some.
            for candidate in (decodes + prompts).sorted(by: { $0.id < $1.id }) {
                add(candidate.slot, to: &step, in: index)
            }
        }
        guard !step.rows.isEmpty else { return nil }
        return send(step, in: index)
    }

    /// Whether a lane's next step need not wait for the last one's result.
    private func plansAhead(_ index: Int) -> Bool {
        guard lanes[index].homes.count == 1, let time = lanes[index].stepTime else { return false }
        return time < limits.planAheadMicroseconds
    }

    /// Whether the sequence's next row is the one after its last token, be that known or not.
    private func isDecode(_ slot: Int) -> Bool {
        sequences[slot].remaining == 0
            || (sequences[slot].remaining == 1 && sequences[slot].computed > 0 && sequences[slot].flights == 0)
    }

    private struct StepRows {
        let limit: Int
        var rows: [ProtoSequenceRows] = []
        var flying: [FlyingStep.Rows] = []
        var decodeRows = 0
        var prefillRows = 0
        var scorePairs = 0
    }

    private mutating func send(_ step: StepRows, in index: Int) -> PlannedStep {
        let stepID = lanes[index].stepsSent + 1
        var message = ProtoStep()
        message.stepID = stepID
        message.lane = UInt32(clamping: index)
        message.class = step.prefillRows > 0 ? .prefill : .decode
        // Every step may change tables, so every step is a change: a home sees at once that it missed one.
        message.tableSequence = stepID
        message.wholeTables = lanes[index].resynchronise
        message.released = lanes[index].released
        message.rows = step.rows
        lanes[index].stepsSent = stepID
        lanes[index].inFlight[stepID] = FlyingStep(rows: step.flying, sent: now)
        lanes[index].released = []
        lanes[index].resynchronise = false
        return PlannedStep(
            epoch: epoch, home: lanes[index].homes[0], step: message, decodeRows: step.decodeRows,
            prefillRows: step.prefillRows)
    }

    /// As many of the sequence's next rows as the step has room for and the lane has pages for.
    private mutating func add(_ slot: Int, to step: inout StepRows, in index: Int) {
        // An older sequence of this very step may have taken its pages.
        guard sequences[slot].lane == index, !sequences[slot].evicted else { return }
        let isDecode = isDecode(slot)
        guard isDecode || settle(slot, in: index) else { return }
        let free = step.limit - step.decodeRows - step.prefillRows
        let wanted = min(isDecode ? 1 : sequences[slot].remaining, free)
        guard wanted > 0 else { return }
        // At most 2^13 rows of 2^32 tokens each.
        let pairs = wanted * Int(sequences[slot].scoreTop ?? 0)
        guard step.scorePairs == 0 || step.scorePairs + pairs <= Self.scorePairsInStep else { return }
        let granted = takePages(for: slot, rows: wanted, in: index)
        guard granted > 0 else { return }
        step.scorePairs += pairs
        if isDecode { step.decodeRows += 1 } else { step.prefillRows += granted }
        // A decode row was charged when its token came.
        if !isDecode { queue.charge(sequences[slot].tenant, tokens: granted) }
        let start = sequences[slot].scheduled
        step.flying.append(
            FlyingStep.Rows(slot: slot, id: sequences[slot].id, positions: start..<start + granted))
        step.rows.append(message(slot, rows: granted))
        sequences[slot].scheduled += granted
        sequences[slot].flights += 1
        sequences[slot].lastStep = lanes[index].stepsSent + 1
        sequences[slot].pagesSent = sequences[slot].pages.count
        sequences[slot].introduced = true
    }

    private func message(_ slot: Int, rows count: Int) -> ProtoSequenceRows {
        let sequence = sequences[slot]
        let start = sequence.scheduled
        let end = start + count
        let isAhead = end > sequence.tokens.count
        let last = isAhead || end == sequence.tokens.count
        var rows = ProtoSequenceRows()
        rows.sequence = sequence.id
        rows.position = UInt32(clamping: start)
        rows.tokens = isAhead ? [ProtoSequenceRows.sampledToken] : Array(sequence.tokens[start..<end])
        if sequence.pagesSent < sequence.pages.count { rows.pages = Array(sequence.pages[sequence.pagesSent...]) }
        if !sequence.introduced { rows.sampling = sequence.sampling }
        if let top = sequence.scoreTop {
            rows.score = .with {
                $0.top = top
                $0.targets = Array(sequence.tokens[(start + 1)..<min(end + 1, sequence.tokens.count)])
                $0.last = last
            }
        } else {
            rows.sample = last
        }
        return rows
    }

    // MARK: Pages

    /// Takes the pages that the next rows of a sequence need, from the youngest where none are free.
    /// - Returns: how many of the rows have pages: all, as many as there are pages for, or none.
    private mutating func takePages(for slot: Int, rows: Int, in index: Int) -> Int {
        let missing = sequences[slot].pagesMissing(forRows: rows)
        guard missing > 0 else { return rows }
        let id = sequences[slot].id
        if let short = lanes[index].shortOf, short < id { return available(to: slot, rows: rows) }
        while lanes[index].pool.availableCount < missing, let victim = youngest(in: index, after: id) {
            guard sequences[victim].flights == 0 else {
                // Its pages come back with its steps; until then nobody younger may take what becomes free.
                sequences[victim].evicted = true
                break
            }
            preempt(victim, in: index)
        }
        for _ in 0..<missing {
            guard let page = lanes[index].pool.take() else {
                lanes[index].shortOf = min(id, lanes[index].shortOf ?? id)
                return available(to: slot, rows: rows)
            }
            append(page, to: slot, in: index)
        }
        if lanes[index].shortOf == id { lanes[index].shortOf = nil }
        return rows
    }

    /// The sequence has one more page. If its tokens are known, others that need the same can wait for it.
    private mutating func append(_ page: UInt32, to slot: Int, in index: Int) {
        let place = sequences[slot].pages.count
        let last = sequences[slot].pages.last
        sequences[slot].pages.append(page)
        guard (place + 1) * Self.pageTokens <= sequences[slot].tokens.count else { return }
        lanes[index].pool.name(page, sequences[slot].tokens, page: place, after: last)
        _ = lanes[index].pool.claim(page, writer: sequences[slot].id)
    }

    /// Rows that fit into the pages a sequence has.
    private func available(to slot: Int, rows: Int) -> Int {
        min(rows, sequences[slot].pages.count * Self.pageTokens - sequences[slot].scheduled)
    }

    private func youngest(in index: Int, after id: UInt64) -> Int? {
        lanes[index].running.last { other in
            sequences[other].id > id && !sequences[other].evicted && !sequences[other].ending
                && !sequences[other].pages.isEmpty
        }
    }

    /// After a gap the homes forget every table of the lane; each sequence is introduced anew with its next rows. The
    /// pages' bytes are still good.
    private mutating func forgetTables(of index: Int) {
        for slot in lanes[index].running where sequences[slot].introduced {
            lanes[index].released.append(sequences[slot].id)
            sequences[slot].introduced = false
            sequences[slot].pagesSent = 0
        }
    }
}
