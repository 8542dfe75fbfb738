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
                .queue(key), class: key.workClass, kind: queue.isRemote ? 0 : 2, since: queue.since,
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

    /// More experts of the same layer, class and kind, to be computed with `work`: small experts that do not make an item
    /// each. All their rows are no more than an item's.
    package mutating func companions(of work: ExpertWork) -> [ExpertWork] {
        guard expertsTogether > 1, !queues.isEmpty else { return [] }
        let isRemote = work.isRemote
        let others = queues.filter { key, queue in
            key.layer == work.layer && key.workClass == work.workClass && queue.isRemote == isRemote
        }.sorted { ($0.value.since, $0.value.ticket) < ($1.value.since, $1.value.ticket) }
        var room = expertRows - work.rowCount
        var found: [ExpertWork] = []
        for (key, queue) in others.prefix(expertsTogether - 1) {
            let rows = queue.pieces.reduce(0) { $0 + $1.outputs.count }
            guard rows <= room, case .expert(let other)? = takeRows(key) else { break }
            room -= rows
            found.append(other)
        }
        return found
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
        guard var queue = queues[key] else { return nil }
        var room = max(expertRows, 1)
        var taken: [ExpertWork.Piece] = []
        var index = 0
        while room > 0, index < queue.pieces.count {
            let outputs = queue.pieces[index].outputs
            let count = min(room, outputs.count)
            taken.append(ExpertWork.Piece(source: queue.pieces[index].source, outputs: outputs.prefix(count)))
            room -= count
            if count < outputs.count {
                queue.pieces[index].outputs = outputs.dropFirst(count)
            } else {
                index += 1
            }
        }
        queue.pieces.removeFirst(index)
        queues[key] = queue.pieces.isEmpty ? nil : queue
        return .expert(ExpertWork(layer: key.layer, expert: key.expert, workClass: key.workClass, pieces: taken))
    }
}
