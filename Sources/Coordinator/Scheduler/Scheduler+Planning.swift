import SwiftProtobuf
import Wire

extension Scheduler {
    /// Starts what waits and fits, and builds every step that can be sent now.
    package mutating func plan(now: UInt64) -> [PlannedStep] {
        self.now = now
        evict()
        start()
        var steps: [PlannedStep] = []
        for index in lanes.indices where lanes[index].isOpen {
            if lanes[index].resynchronise {
                guard lanes[index].inFlight.isEmpty else { continue }
                forgetTables(of: index)
            }
            while lanes[index].inFlight.count < waves(of: index), let step = buildStep(for: index, now: now) {
                steps.append(step)
            }
        }
        return steps
    }

    /// Steps that the lane may have in flight: one for each stage once there are sequences enough to fill them.
    private func waves(of index: Int) -> Int {
        let lane = lanes[index]
        return min(lane.homes.count, max(1, lane.running.count / max(1, limits.sequencesPerWave)))
    }

    // MARK: Coming and going

    private mutating func evict() {
        for index in lanes.indices {
            for id in lanes[index].running {
                guard let sequence = sequences[id], sequence.evicted, sequence.inFlight == nil else { continue }
                preempt(id, in: index)
            }
        }
    }

    private mutating func preempt(_ id: UInt64, in index: Int) {
        preemptions += 1
        release(id, from: index)
        sendBack(id)
    }

    /// Gives lanes to waiting sequences, in order: the head of the queue goes to the lane with the fewest sequences
    /// that has room for it, and while there is none nobody overtakes it.
    private mutating func start() {
        while let id = nextWaiting() {
            guard let sequence = sequences[id], let index = laneWithRoom(for: sequence) else { return }
            if replays.first == id {
                replays.removeFirst()
            } else {
                waiting.removeFirst()
            }
            waitingCount -= 1
            sequences[id]?.lane = index
            let running = lanes[index].running
            lanes[index].running.insert(id, at: running.firstIndex { $0 > id } ?? running.endIndex)
        }
    }

    private mutating func nextWaiting() -> UInt64? {
        if let id = replays.first { return id }
        while let id = waiting.first {
            if sequences[id] != nil { return id }
            waiting.removeFirst()
        }
        return nil
    }

    private func laneWithRoom(for sequence: Sequence) -> Int? {
        var best: Int?
        for lane in lanes where lane.isOpen && lane.shortOf == nil {
            guard lane.running.count < limits.maximumSequencesPerLane else { continue }
            // A page in hand for each that runs: a newcomer that is sent back at once would be prefilled in vain.
            let needed = Self.pages(for: sequence.tokens.count + 1) + lane.running.count
            let promised = lane.running.reduce(0) { sum, id in
                sum + (sequences[id].map { $0.pagesMissing(forRows: $0.remaining) } ?? 0)
            }
            guard lane.running.isEmpty || lane.free.count >= needed + promised else { continue }
            guard let other = best else {
                best = lane.index
                continue
            }
            let fewer = (lane.running.count, lane.pagesUsed) < (lanes[other].running.count, lanes[other].pagesUsed)
            if fewer { best = lane.index }
        }
        return best
    }

    // MARK: One step

    private mutating func buildStep(for index: Int, now: UInt64) -> PlannedStep? {
        let waves = waves(of: index)
        let share = (lanes[index].running.count + waves - 1) / waves
        let idle = lanes[index].running.compactMap { id -> (last: UInt64, id: UInt64)? in
            guard let sequence = sequences[id], sequence.inFlight == nil, !sequence.evicted else { return nil }
            return (sequence.lastStep, id)
        }
        // Whoever waited longest for a step is in it; among those, the oldest comes first to pages and prompt rows.
        let chosen = idle.sorted { ($0.last, $0.id) < ($1.last, $1.id) }.prefix(share).map(\.id).sorted()
        var (rows, prefill) = fill(chosen, in: index)
        if rows.isEmpty {
            // All of those lack pages: with everybody in turn, the oldest gets some.
            (rows, prefill) = fill(idle.map(\.id), in: index)
        }
        guard !rows.isEmpty else { return nil }
        let stepID = lanes[index].stepsSent + 1
        let step = ProtoStep.with {
            $0.stepID = stepID
            $0.lane = UInt32(clamping: index)
            $0.class = prefill ? .prefill : .decode
            // Every step may change tables, so every step is a change: a home sees at once that it missed one.
            $0.tableSequence = stepID
            $0.wholeTables = lanes[index].resynchronise
            $0.released = lanes[index].released
            $0.rows = rows
        }
        lanes[index].stepsSent = stepID
        lanes[index].inFlight[stepID] = FlyingStep(sequences: rows.map(\.sequence), sent: now)
        lanes[index].released = []
        lanes[index].resynchronise = false
        return PlannedStep(epoch: epoch, home: lanes[index].homes[0], step: step)
    }

    /// The rows of a step: of these sequences, oldest first, those that get pages.
    private mutating func fill(_ chosen: [UInt64], in index: Int) -> (rows: [ProtoSequenceRows], prefill: Bool) {
        let stepID = lanes[index].stepsSent + 1
        var prefillRows = limits.prefillChunkRows
        var prefill = false
        var scorePairs = 0
        var rows: [ProtoSequenceRows] = []
        for id in chosen {
            // An older sequence of this very step may have taken its pages.
            guard let sequence = sequences[id], sequence.lane == index, !sequence.evicted else { continue }
            let decode = sequence.remaining == 1 && sequence.computed > 0
            let wanted = decode ? 1 : min(sequence.remaining, prefillRows)
            guard wanted > 0 else { continue }
            // At most 2^13 rows of 2^32 tokens each.
            let pairs = wanted * Int(sequence.scoreTop ?? 0)
            guard scorePairs == 0 || scorePairs + pairs <= Self.scorePairsInStep else { continue }
            let granted = takePages(for: id, rows: wanted, in: index)
            guard granted > 0 else { continue }
            scorePairs += pairs
            if !decode {
                prefill = true
                prefillRows -= granted
            }
            rows.append(schedule(id, rows: granted, step: stepID))
        }
        return (rows, prefill)
    }

    /// Takes the pages that the next rows of a sequence need, from the youngest where none are free.
    /// - Returns: how many of the rows have pages: all, as many as there are pages for, or none.
    private mutating func takePages(for id: UInt64, rows: Int, in index: Int) -> Int {
        guard let missing = sequences[id]?.pagesMissing(forRows: rows) else { return 0 }
        guard missing > 0 else { return rows }
        if let short = lanes[index].shortOf, short < id { return available(to: id, rows: rows) }
        while lanes[index].free.count < missing, let victim = youngest(in: index, after: id) {
            guard sequences[victim]?.inFlight == nil else {
                // Its pages come back with its step; until then nobody younger may take what becomes free.
                sequences[victim]?.evicted = true
                break
            }
            preempt(victim, in: index)
        }
        let taken = min(missing, lanes[index].free.count)
        for _ in 0..<taken {
            if let page = lanes[index].free.popLast() { sequences[id]?.pages.append(page) }
        }
        if taken == missing {
            if lanes[index].shortOf == id { lanes[index].shortOf = nil }
            return rows
        }
        lanes[index].shortOf = min(id, lanes[index].shortOf ?? id)
        return available(to: id, rows: rows)
    }

    /// Rows that fit into the pages a sequence has.
    private func available(to id: UInt64, rows: Int) -> Int {
        guard let sequence = sequences[id] else { return 0 }
        return min(rows, sequence.pages.count * Self.pageTokens - sequence.computed)
    }

    private func youngest(in index: Int, after id: UInt64) -> UInt64? {
        lanes[index].running.last { other in
            other > id && sequences[other].map { !$0.evicted && !$0.ending && !$0.pages.isEmpty } ?? false
        }
    }

    private mutating func schedule(_ id: UInt64, rows count: Int, step: UInt64) -> ProtoSequenceRows {
        guard let sequence = sequences[id] else { return ProtoSequenceRows() }
        let start = sequence.computed
        let end = start + count
        let last = end == sequence.tokens.count
        sequences[id]?.inFlight = count
        sequences[id]?.lastStep = step
        sequences[id]?.pagesSent = sequence.pages.count
        sequences[id]?.introduced = true
        return .with {
            $0.sequence = id
            $0.position = UInt32(clamping: start)
            $0.tokens = Array(sequence.tokens[start..<end])
            $0.pages = Array(sequence.pages[sequence.pagesSent...])
            if !sequence.introduced { $0.sampling = sequence.sampling }
            if let top = sequence.scoreTop {
                $0.score = .with {
                    $0.top = top
                    $0.targets = Array(sequence.tokens[(start + 1)..<min(end + 1, sequence.tokens.count)])
                    $0.last = last
                }
            } else {
                $0.sample = last
            }
        }
    }

    /// After a gap the homes forget every table of the lane; each sequence is introduced anew with its next rows. The
    /// pages' bytes are still good.
    private mutating func forgetTables(of index: Int) {
        for id in lanes[index].running {
            guard let sequence = sequences[id], sequence.introduced else { continue }
            lanes[index].released.append(id)
            sequences[id]?.introduced = false
            sequences[id]?.pagesSent = 0
        }
    }
}
