extension Scheduler {
    /// What a lane's sequences have before them.
    private struct Load {
        /// Rows that were not sent yet.
        var rows = 0
        /// Positions that the next rows attend to.
        var context = 0
        /// Pages that the rows known so far still need.
        var promisedPages = 0
    }

    /// Gives lanes to waiting sequences, in the order of the queue; while whoever is first has no room, nobody else
    /// starts.
    mutating func start() {
        guard queue.count > 0 else { return }
        var loads = lanes.map(load)
        while let id = queue.next(), let slot = slot(of: id) {
            guard let index = lane(for: slot, loads) else {
                makeWay(for: slot)
                return
            }
            let sequence = sequences[slot]
            queue.start(id, tenant: sequence.tenant, tokens: sequence.tokens.count)
            startRate.note(at: now)
            sequences[slot].lane = index
            let at = lanes[index].place(of: id, sequences) ?? lanes[index].running.count
            lanes[index].running.insert(slot, at: at)
            if sequence.waited == nil {
                sequences[slot].waited = now - sequence.admitted
                prefixQueriedTokens += UInt64(sequence.tokens.count)
            }
            _ = settle(slot, in: index)
            loads[index] = load(lanes[index])
        }
    }

    private func load(_ lane: Lane) -> Load {
        lane.running.reduce(into: Load()) { load, slot in
            load.rows += max(1, sequences[slot].remaining)
            load.context += sequences[slot].tokens.count
            load.promisedPages += sequences[slot].pagesMissing(forRows: sequences[slot].remaining)
        }
    }

    /// The lane with the longest part of the sequence's beginning in its pages, then with the fewest rows to come. Lanes
    /// in use come first: another one is opened when that pays, or when those have no room.
    private func lane(for slot: Int, _ loads: [Load]) -> Int? {
        let sequence = sequences[slot]
        var best: (index: Int, isIdle: Bool, cached: Int)?
        var isWorthOpening: Bool?
        for lane in lanes where hasRoom(lane, for: sequence, loads[lane.index]) {
            let isIdle = lane.running.isEmpty
            let cached = lane.pool.match(sequence.tokens, limit: sequence.sharablePages)
            guard let other = best else {
                best = (lane.index, isIdle, cached)
                continue
            }
            let isBetter: Bool
            if cached != other.cached {
                isBetter = cached > other.cached
            } else if isIdle != other.isIdle {
                let pays = isWorthOpening ?? paysForLane(with: sequence, loads)
                isWorthOpening = pays
                isBetter = isIdle == pays
            } else {
                isBetter = loads[lane.index].rows < loads[other.index].rows
            }
            if isBetter { best = (lane.index, isIdle, cached) }
        }
        return best?.index
    }

    private func hasRoom(_ lane: Lane, for sequence: Sequence, _ load: Load) -> Bool {
        guard lane.isOpen, lane.shortOf == nil, lane.running.count < limits.maximumSequencesPerLane else {
            return false
        }
        // A page in hand for each that runs: a newcomer that is sent back at once would be prefilled in vain.
        let needed = Self.pages(for: sequence.tokens.count + 1) + lane.running.count
        return lane.running.isEmpty || lane.pool.availableCount >= needed + load.promisedPages
    }

    private func paysForLane(with sequence: Sequence, _ loads: [Load]) -> Bool {
        guard let cost else { return true }
        var rows = sequence.tokens.count
        var context = sequence.tokens.count
        var active = 0
        for lane in lanes where !lane.running.isEmpty {
            rows += loads[lane.index].rows
            context += loads[lane.index].context
            active += 1
        }
        return cost.paysForLane(rows: rows, context: context, active: max(1, active))
    }

    /// Nobody has room for the sequence. Where its tenant runs less than its share, the youngest sequence of the tenant
    /// that runs most goes back to the queue. What it has computed stays in the pages as long as there is room.
    private mutating func makeWay(for slot: Int) {
        guard let tenant = queue.overServed(besides: sequences[slot].tenant) else { return }
        var youngest: Int?
        for lane in lanes where lane.isOpen {
            for other in lane.running where !sequences[other].ending {
                // One at a time: its place is not free before its steps are back.
                if sequences[other].evicted { return }
                guard sequences[other].tenant == tenant, sequences[other].id > youngest.map({ sequences[$0].id }) ?? 0
                else { continue }
                youngest = other
            }
        }
        if let youngest { sequences[youngest].evicted = true }
    }

    /// Takes over what others have computed of the pages that come next in the sequence.
    ///
    /// - Returns: whether rows can be sent; otherwise somebody else is about to compute them.
    mutating func settle(_ slot: Int, in index: Int) -> Bool {
        while sequences[slot].scheduled % Self.pageTokens == 0 {
            let place = sequences[slot].scheduled / Self.pageTokens
            guard place < sequences[slot].sharablePages else { return true }
            let page: UInt32
            if place < sequences[slot].pages.count {
                page = sequences[slot].pages[place]
            } else if let shared = lanes[index].pool.share(
                sequences[slot].tokens, page: place, after: sequences[slot].pages.last)
            {
                sequences[slot].pages.append(shared)
                page = shared
            } else {
                return true
            }
            if lanes[index].pool.isComputed(page) {
                guard sequences[slot].flights == 0 else { return false }
                sequences[slot].scheduled += Self.pageTokens
                sequences[slot].computed = sequences[slot].scheduled
                guard !sequences[slot].isReplay else { continue }
                sequences[slot].cachedTokens += Self.pageTokens
                prefixHitTokens += UInt64(Self.pageTokens)
            } else {
                return lanes[index].pool.claim(page, writer: sequences[slot].id)
            }
        }
        return true
    }
}
