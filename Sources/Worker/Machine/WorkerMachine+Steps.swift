package import Wire

// A step's life at its home.
extension WorkerMachine {
    /// The coordinator sends a step to the lane's first home.
    package mutating func stepReceived(_ message: ProtoStep) -> [WorkerAction] {
        guard let role = view.role(inLane: Int(message.lane)), role.previous == nil else {
            return [refusal(message, "lane_foreign", "lane \(message.lane) does not begin at \(view.own.name)")]
        }
        return accept(message, role: role, notFinite: [])
    }

    /// A step comes with the hidden state of its rows from the lane's home before this one.
    ///
    /// - Parameter notFinite: rows of the frame that hold a NaN or an infinity.
    package mutating func hiddenReceived(_ message: ProtoStep, notFinite: Set<Int>, from home: HomeID) -> [WorkerAction]
    {
        guard let role = view.role(inLane: Int(message.lane)), let peer = homes[home]?.peer, role.previous == peer
        else {
            let failure = Failure(
                code: "lane_foreign", message: "lane \(message.lane) does not come to \(view.own.name) from this peer")
            return [.closeHome(home, failure)]
        }
        return accept(message, role: role, notFinite: notFinite)
    }

    private mutating func accept(
        _ message: ProtoStep, role: PlacementView.LaneRole, notFinite: Set<Int>
    ) -> [WorkerAction] {
        let lane = Int(message.lane)
        let key = StepKey(lane: lane, step: message.stepID)
        let workClass: WorkClass
        switch message.class {
        case .decode: workClass = .decode
        case .prefill: workClass = .prefill
        case .UNRECOGNIZED(let raw):
            return [refusal(message, "step_class", "class \(raw), expected 0 or 1")]
        }
        guard message.rowCount <= bounds.rowsInStep else {
            return [refusal(message, "step_too_large", "\(message.rowCount) rows, the most are \(bounds.rowsInStep)")]
        }
        var state = lanes[lane] ?? LaneState()
        guard state.order.count < bounds.stepsInLane else {
            return [refusal(message, "too_many_steps", "\(state.order.count) steps of lane \(lane) are in progress")]
        }
        switch state.tables.apply(message, bounds: bounds, samples: role.previous == nil && role.next == nil) {
        case .repeated:
            return []
        case .gap(let known, let found):
            lanes[lane] = state
            return [refusal(message, "page_table_gap", "table sequence \(found) after \(known)")]
        case .applied(let entries, let failures):
            let sequences = Set(entries.filter { $0.count > 0 }.map(\.sequence))
            let elders = state.order.filter { elder in
                steps[elder]?.entries.contains { $0.count > 0 && sequences.contains($0.sequence) } ?? false
            }
            state.order.append(key)
            lanes[lane] = state
            var step = StepState(
                key: key, workClass: workClass, role: role, message: message, entries: entries,
                rowCount: entries.reduce(0) { $0 + $1.count }, chunk: max(layerRows, 1), elders: elders,
                layer: view.layers.lowerBound, phase: .layer(nextRow: 0), since: itemsStarted, ticket: ticket())
            step.message.failures += failures
            var row = 0
            for entry in entries {
                if entry.isAhead {
                    step.awaited[AwaitedRow(sequence: entry.sequence, position: entry.position)] = row
                }
                row += entry.count
            }
            if step.rowCount == 0 { step.phase = .done }
            let isDone = step.phase == .done
            steps[key] = step
            for entry in entries where notFinite.contains(where: { entry.frameRows.contains($0) }) {
                failSequence(entry.sequence, lane: lane, .notFinite("hidden state"))
            }
            let begin = WorkerAction.beginStep(key, entries: entries, message: message, chunk: step.chunk)
            return [begin] + (isDone ? stepDone(key) : [])
        }
    }

    /// A `LayerWork` has been computed; `routes` are its rows'.
    package mutating func layerFinished(_ work: LayerWork, routes: RowRoutes) -> [WorkerAction] {
        guard var step = steps[work.step], step.layer == work.layer,
            step.phase == .layer(nextRow: work.rows.lowerBound)
        else { return [] }
        if work.rows == 0..<step.rowCount {
            step.routes = routes
        } else {
            if work.rows.lowerBound == 0 { step.routes.removeAll() }
            step.routes.append(experts: routes.experts, weights: routes.weights)
        }
        guard work.rows.upperBound == step.rowCount else {
            step.phase = .layer(nextRow: work.rows.upperBound)
            step.since = itemsStarted
            step.ticket = ticket()
            steps[work.step] = step
            return []
        }
        step.phase = .experts(missing: step.rowCount * bounds.expertsUsed)
        step.noteScoreRoutes(expertsUsed: bounds.expertsUsed)
        let experts = step.routes.experts
        step.routes = RowRoutes()
        steps[work.step] = step
        return dispatch(work.step, experts: experts)
    }

    /// The step could not be computed; its rows have to be computed anew.
    package mutating func stepBroke(_ key: StepKey, _ failure: Failure) -> [WorkerAction] { failStep(key, failure) }

    /// An `OutputWork` has been computed.
    package mutating func outputFinished(_ work: OutputWork, result: OutputResult) -> [WorkerAction] {
        guard var step = steps[work.step], step.phase == .output(nextRow: work.rows.lowerBound) else { return [] }
        step.result.tokens += result.tokens
        for part in result.scores { step.result.add(part) }
        let isDone = work.rows.upperBound == step.rowCount
        step.phase = isDone ? .done : .output(nextRow: work.rows.upperBound)
        step.since = itemsStarted
        step.ticket = ticket()
        steps[work.step] = step
        for failure in result.failures {
            failSequence(failure.sequence, lane: work.step.lane, failure.failure)
        }
        return (isDone ? stepDone(work.step) : []) + passOn(result.tokens, of: step)
    }

    /// Tokens of a step are sampled: those that were planned ahead of them begin with them.
    private mutating func passOn(_ tokens: [ProtoSampledToken], of step: StepState) -> [WorkerAction] {
        let lane = step.key.lane
        let heirs = (lanes[lane]?.order ?? []).filter { steps[$0]?.awaited.isEmpty == false }
        // Taken out and put back: to change them in their places allocates for each.
        var awaited = heirs.map { steps[$0]?.awaited ?? [:] }
        for heir in heirs { steps[heir]?.awaited = [:] }
        defer { for (heir, awaited) in zip(heirs, awaited) { steps[heir]?.awaited = awaited } }
        var found = heirs.map { _ in [RowToken]() }
        var entries = step.entries[...]
        for sampled in tokens {
            // Tokens come in the order of the step's rows.
            entries = entries.drop { $0.sequence != sampled.sequence }
            guard let entry = entries.first else { break }
            let row = AwaitedRow(sequence: sampled.sequence, position: entry.position + entry.count)
            if let heir = awaited.firstIndex(where: { $0[row] != nil }),
                let place = awaited[heir].removeValue(forKey: row)
            {
                found[heir].append(RowToken(row: place, token: sampled.token))
            } else {
                lanes[lane]?.tables.sampled(sampled.token, of: row.sequence, at: row.position)
            }
        }
        return zip(heirs, found).compactMap { $1.isEmpty ? nil : .setTokens($0, $1) }
    }

    /// `count` outputs of the step's layer are in their place; those of `notFinite` end their sequences.
    mutating func outputsArrived(_ key: StepKey, count: Int, notFinite: some Sequence<Int>) {
        guard var step = steps[key], case .experts(let missing) = step.phase else { return }
        let left = missing - count
        if left > 0 {
            step.phase = .experts(missing: left)
        } else {
            step.layer += 1
            step.phase = step.layer == view.layers.upperBound ? .output(nextRow: 0) : .layer(nextRow: 0)
            step.since = itemsStarted
            step.ticket = ticket()
        }
        steps[key] = step
        for output in notFinite {
            guard let sequence = step.sequence(ofRow: output / bounds.expertsUsed) else { continue }
            failSequence(sequence, lane: key.lane, .notFinite("an expert's output"))
        }
    }

    /// Ends one sequence: its rows go along to the end of the stage, but no further, and later rows are not computed.
    mutating func failSequence(_ sequence: UInt64, lane: Int, _ failure: ProtoFailure) {
        lanes[lane]?.tables.fail(sequence, failure)
        for key in lanes[lane]?.order ?? [] {
            guard let step = steps[key], step.entries.contains(where: { $0.sequence == sequence }),
                !step.message.failures.contains(where: { $0.sequence == sequence })
            else { continue }
            steps[key]?.message.failures.append(.init(sequence: sequence, failure: failure))
            // Its row goes along with the rest of the step, whatever its token is.
            if !step.awaited.isEmpty { steps[key]?.awaited = step.awaited.filter { $0.key.sequence != sequence } }
        }
    }

    /// Ends a step with a failure, and with it the steps that need the keys and values that it would have written.
    mutating func failStep(_ key: StepKey, _ failure: Failure) -> [WorkerAction] {
        guard let step = steps.removeValue(forKey: key) else { return [] }
        lanes[key.lane]?.order.removeAll { $0 == key }
        for entry in step.entries where entry.count > 0 {
            lanes[key.lane]?.tables.fail(entry.sequence, .init(failure))
        }
        forgetWork(of: key)
        var actions = [refusal(step.message, failure), .endStep(key)]
        for heir in lanes[key.lane]?.order ?? [] where steps[heir]?.elders.contains(key) ?? false {
            actions += failStep(heir, failure)
        }
        return actions + drain(lane: key.lane)
    }

    /// Whether the step's rows may enter its layer: their tokens must be known, and earlier rows of the same sequences must
    /// have passed it.
    func isReady(_ step: StepState) -> Bool {
        guard step.awaited.isEmpty else { return false }
        return step.elders.allSatisfy { elder in
            guard let elder = steps[elder] else { return true }
            if case .layer = elder.phase { return elder.layer > step.layer }
            return elder.layer >= step.layer
        }
    }

    private mutating func stepDone(_ key: StepKey) -> [WorkerAction] {
        guard let step = steps[key] else { return [] }
        guard step.role.next == nil else { return drain(lane: key.lane) }
        steps[key] = nil
        lanes[key.lane]?.order.removeAll { $0 == key }
        let failed = Set(step.message.failures.map(\.sequence))
        var result = ProtoStepResult()
        result.stepID = key.step
        result.lane = step.message.lane
        result.failures = step.message.failures
        result.tokens = step.result.tokens.filter { !failed.contains($0.sequence) }
        result.scores = step.result.scores.filter { !failed.contains($0.sequence) }
        for index in result.scores.indices {
            let sequence = result.scores[index].sequence
            result.scores[index].routesLast =
                step.message.scoreRoutes.first { $0.sequence == sequence }?.routes ?? []
        }
        return [.sendStepResult(result), .endStep(key)]
    }

    /// Sends on what is done, in the lane's order.
    private mutating func drain(lane: Int) -> [WorkerAction] {
        var actions: [WorkerAction] = []
        while let key = lanes[lane]?.order.first, let step = steps[key], step.phase == .done,
            let next = step.role.next
        {
            guard links[next] != nil else {
                return actions
                    + failStep(key, Failure(code: "peer_lost", message: "worker '\(next.name)' is not reached"))
            }
            steps[key] = nil
            lanes[lane]?.order.removeFirst()
            var message = step.message
            let failed = Set(message.failures.map(\.sequence))
            message.rows.removeAll { failed.contains($0.sequence) }
            var rows: [Int] = []
            var row = 0
            for entry in step.entries {
                if !failed.contains(entry.sequence) { rows += row..<(row + entry.count) }
                row += entry.count
            }
            actions += [.sendHidden(key, to: next, message: message, rows: rows), .endStep(key)]
        }
        return actions
    }

    private func refusal(_ message: ProtoStep, _ code: String, _ text: String) -> WorkerAction {
        refusal(message, Failure(code: code, message: text))
    }

    private func refusal(_ message: ProtoStep, _ failure: Failure) -> WorkerAction {
        var failed = ProtoStepFailed()
        failed.stepID = message.stepID
        failed.lane = message.lane
        failed.failure = .init(failure)
        return .sendStepFailed(failed)
    }
}

extension WorkerMachine.StepState {
    /// Whose row it is.
    func sequence(ofRow row: Int) -> UInt64? {
        var end = 0
        for entry in entries {
            end += entry.count
            if row < end { return entry.sequence }
        }
        return nil
    }

    /// Appends the routes of the last row of each sequence that wants them.
    fileprivate mutating func noteScoreRoutes(expertsUsed: Int) {
        var end = 0
        for entry in entries {
            end += entry.count
            let rows = message.rows[entry.index]
            let last = (end - 1) * expertsUsed..<end * expertsUsed
            guard rows.hasScore, rows.score.last, entry.count > 0, last.upperBound <= routes.experts.count else {
                continue
            }
            var route = ProtoRoute()
            route.experts = routes.experts[last].map { UInt32(truncatingIfNeeded: $0) }
            route.weights = Array(routes.weights[last])
            if let index = message.scoreRoutes.firstIndex(where: { $0.sequence == entry.sequence }) {
                message.scoreRoutes[index].routes.append(route)
            } else {
                var first = ProtoScoreRoutes()
                first.sequence = entry.sequence
                first.routes = [route]
                message.scoreRoutes.append(first)
            }
        }
    }
}

extension LaneTables.Entry {
    var frameRows: Range<Int> { frameRow..<(frameRow + count) }
}

extension ProtoFailure {
    static func notFinite(_ what: String) -> ProtoFailure {
        ProtoFailure(Failure(code: "not_finite", message: "\(what) holds a NaN or an infinity"))
    }
}
