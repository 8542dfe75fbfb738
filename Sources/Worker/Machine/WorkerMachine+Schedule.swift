// What is computed next.
extension WorkerMachine {
    /// Items handed out after which waiting work goes before everything: about 0.2 s of items of 5 ms.
    package static let ageing: UInt64 = 40

    private enum Candidate {
        case queue(QueueKey)
        case step(StepKey)
    }

    /// Smaller goes first: class, then kind (a peer waits for remote rows; a layer gives everybody work; own rows), then age.
    private struct Rank: Comparable {
        let value: Int
        let since: UInt64
        let ticket: UInt64

        static func < (left: Rank, right: Rank) -> Bool {
            (left.value, left.since, left.ticket) < (right.value, right.since, right.ticket)
        }
    }

    /// The next thing to compute, nil if there is nothing. The caller computes it and reports it as finished before it
    /// reports any other event.
    package mutating func nextItem() -> WorkItem? {
        var best: (rank: Rank, candidate: Candidate)?
        func consider(_ candidate: Candidate, class workClass: WorkClass, kind: Int, since: UInt64, ticket: UInt64) {
            let isAged = itemsStarted - since >= Self.ageing
            let rank = Rank(value: isAged ? -1 : workClass.rawValue * 3 + kind, since: since, ticket: ticket)
            if best.map({ rank < $0.rank }) ?? true { best = (rank, candidate) }
        }
        for (key, queue) in queues {
            consider(
                .queue(key), class: key.workClass, kind: queue.pieces.isRemote ? 0 : 2, since: queue.since,
                ticket: queue.ticket)
        }
        for (key, step) in steps where isComputable(step) {
            consider(.step(key), class: step.workClass, kind: 1, since: step.since, ticket: step.ticket)
        }
        guard let best else { return nil }
        itemsStarted += 1
        switch best.candidate {
        case .queue(let key): return takeRows(key)
        case .step(let key): return takeStep(key)
        }
    }

    /// Adds more experts of the same layer, class and kind, to be computed with `work`: small experts that do not make an item
    /// each. All their rows are no more than an item's.
    package mutating func addCompanions(of work: ExpertWork, to works: inout [ExpertWork]) {
        let isRemote = work.pieces.isRemote
        var room = expertRows - work.rowCount
        for _ in 1..<max(expertsTogether, 1) {
            var best: (key: QueueKey, queue: ExpertQueue)?
            for (key, queue) in queues
            where key.layer == work.layer && key.workClass == work.workClass && queue.pieces.isRemote == isRemote {
                if best.map({ (queue.since, queue.ticket) < ($0.queue.since, $0.queue.ticket) }) ?? true {
                    best = (key, queue)
                }
            }
            guard let (key, queue) = best, queue.pieces.rowCount <= room, case .expert(let other)? = takeRows(key)
            else {
                return
            }
            room -= queue.pieces.rowCount
            works.append(other)
        }
    }

    /// Whether there is something to compute now.
    package var hasItem: Bool { !queues.isEmpty || steps.values.contains { isComputable($0) } }

    private func isComputable(_ step: StepState) -> Bool {
        switch step.phase {
        case .layer: isReady(step)
        case .output: true
        case .experts, .done: false
        }
    }

    private func takeStep(_ key: StepKey) -> WorkItem? {
        guard let step = steps[key] else { return nil }
        switch step.phase {
        case .layer(let row):
            return .layer(LayerWork(step: key, layer: step.layer, rows: row..<min(row + step.chunk, step.rowCount)))
        case .output(let row):
            return .output(OutputWork(step: key, rows: row..<min(row + step.chunk, step.rowCount)))
        case .experts, .done:
            return nil
        }
    }

    /// As many of the rows that wait for one expert as an item may have, first come first, from whichever home.
    private mutating func takeRows(_ key: QueueKey) -> WorkItem? {
        guard let queue = queues.removeValue(forKey: key) else { return nil }
        var room = max(expertRows, 1)
        func work(_ pieces: ExpertWork.Pieces) -> WorkItem {
            .expert(ExpertWork(layer: key.layer, expert: key.expert, workClass: key.workClass, pieces: pieces))
        }
        guard queue.pieces.rowCount > room else { return work(queue.pieces) }
        var taken = ExpertWork.Pieces()
        var rest = ExpertWork.Pieces()
        for piece in queue.pieces {
            let count = min(room, piece.outputs.count)
            room -= count
            if count > 0 { taken.append(.init(source: piece.source, outputs: piece.outputs.prefix(count))) }
            if count < piece.outputs.count {
                rest.append(.init(source: piece.source, outputs: piece.outputs.dropFirst(count)))
            }
        }
        queues[key] = ExpertQueue(pieces: rest, since: queue.since, ticket: queue.ticket)
        return work(taken)
    }
}
