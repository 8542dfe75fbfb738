package import Wire

// A step's life at its home.
extension WorkerMachine {
    /// The coordinator sends a step to the lane's first home.
    package mutating func stepReceived(_ batch: StepBatch, into actions: inout [WorkerAction]) {
        guard let role = view.role(inLane: Int(batch.lane)), role.previous == nil else {
            actions.append(refusal(batch, "lane_foreign", "lane \(batch.lane) does not begin at \(view.own.name)"))
            return
        }
        accept(batch, role: role, notFinite: [], into: &actions)
    }

    /// A step comes with the hidden state of its rows from the lane's home before this one.
    ///
    /// - Parameter notFinite: rows of the frame that hold a NaN or an infinity.
    package mutating func hiddenReceived(
        _ batch: StepBatch, notFinite: [Int], from home: HomeID, into actions: inout [WorkerAction]
    ) {
        guard let role = view.role(inLane: Int(batch.lane)), let peer = homes[home]?.peer, role.previous == peer
        else {
            let failure = Failure(
                code: "lane_foreign", message: "lane \(batch.lane) does not come to \(view.own.name) from this peer")
            actions.append(.closeHome(home, failure))
            return
        }
        accept(batch, role: role, notFinite: notFinite, into: &actions)
    }

    private mutating func accept(
        _ batch: StepBatch, role: PlacementView.LaneRole, notFinite: [Int], into actions: inout [WorkerAction]
    ) {
        let workClass: WorkClass
        switch batch.workClass {
        case .decode: workClass = .decode
        case .prefill: workClass = .prefill
        case .UNRECOGNIZED(let raw):
            actions.append(refusal(batch, "step_class", "class \(raw), expected 0 or 1"))
            return
        }
        guard batch.rowCount <= bounds.rowsInStep else {
            let text = "\(batch.rowCount) rows, the most are \(bounds.rowsInStep)"
            actions.append(refusal(batch, "step_too_large", text))
            return
        }
        let key = StepKey(lane: Int(batch.lane), step: batch.stepID)
        let lane = lane(key.lane)
        guard lane.order.count < bounds.stepsInLane else {
            let text = "\(lane.order.count) steps of lane \(key.lane) are in progress"
            actions.append(refusal(batch, "too_many_steps", text))
            return
        }
        let step = spareSteps.take() ?? StepState()
        let samples = role.previous == nil && role.next == nil
        switch lane.tables.apply(batch, bounds: bounds, samples: samples, into: &step.rows) {
        case .repeated:
            retire(step)
            return
        case .gap(let known, let found):
            retire(step)
            actions.append(refusal(batch, "page_table_gap", "table sequence \(found) after \(known)"))
            return
        case .applied:
            break
        }
        step.begin(key, workClass, role, batch, layer: view.layers.lowerBound, chunk: max(layerRows, 1))
        step.since = itemsStarted
        step.ticket = ticket()
        for elder in lane.order where steps[elder]?.sharesSequence(with: step) ?? false { step.elders.append(elder) }
        lane.order.append(key)
        steps[key] = step
        if !notFinite.isEmpty {
            for entry in step.rows where notFinite.contains(where: { entry.frameRows.contains($0) }) {
                failSequence(entry.sequence, lane: key.lane, .notFinite("hidden state"))
            }
        }
        actions.append(.beginStep(key, batch: batch, entries: step.rows, chunk: step.chunk))
        if step.phase == .done { stepDone(step, into: &actions) }
    }

    private mutating func lane(_ number: Int) -> LaneState {
        if let lane = lanes[number] { return lane }
        let lane = LaneState()
        lanes[number] = lane
        return lane
    }

    /// A `LayerWork` has been computed; `routes` are its rows'.
    package mutating func layerFinished(_ work: LayerWork, routes: RowRoutes, into actions: inout [WorkerAction]) {
        guard let step = steps[work.step], step.layer == work.layer,
            step.phase == .layer(nextRow: work.rows.lowerBound)
        else { return }
        guard work.rows != 0..<step.rowCount else {
            dispatch(step, routes: routes, into: &actions)
            return
        }
        if work.rows.lowerBound == 0 { step.routes.removeAll() }
        step.routes.append(experts: routes.experts, weights: routes.weights)
        if work.rows.upperBound == step.rowCount {
            dispatch(step, routes: step.routes, into: &actions)
        } else {
            step.phase = .layer(nextRow: work.rows.upperBound)
            step.since = itemsStarted
            step.ticket = ticket()
        }
    }

    /// The layer's rows have been through its attention.
    private mutating func dispatch(_ step: StepState, routes: RowRoutes, into actions: inout [WorkerAction]) {
        // Rows that nothing is read from after the last layer go to no expert of it.
        let outputs = routes.experts.count { $0 >= 0 }
        step.phase = .experts(missing: outputs)
        step.noteScoreRoutes(routes, expertsUsed: bounds.expertsUsed)
        guard outputs > 0 else { return outputsArrived(step.key, count: 0) }
        dispatch(step, experts: routes.experts, into: &actions)
    }

    /// The step could not be computed; its rows have to be computed anew.
    package mutating func stepBroke(_ key: StepKey, _ failure: Failure, into actions: inout [WorkerAction]) {
        failStep(key, failure, into: &actions)
    }

    /// An `OutputWork` has been computed.
    package mutating func outputFinished(
        _ work: OutputWork, result: OutputResult, into actions: inout [WorkerAction]
    ) {
        guard let step = steps[work.step], step.phase == .output(nextRow: work.rows.lowerBound) else { return }
        step.result.tokens.append(contentsOf: result.tokens)
        for part in result.scores { step.result.add(part) }
        let isDone = work.rows.upperBound == step.rowCount
        step.phase = isDone ? .done : .output(nextRow: work.rows.upperBound)
        step.since = itemsStarted
        step.ticket = ticket()
        for failure in result.failures {
            failSequence(failure.sequence, lane: work.step.lane, failure.failure)
        }
        if isDone { sendResult(of: step, into: &actions) }
        passOn(result.tokens, of: step, into: &actions)
        if isDone { leave(step, into: &actions) }
    }

    /// Tokens of a step are sampled: those that were planned ahead of them begin with them.
    private func passOn(
        _ tokens: [ProtoSampledToken], of step: StepState, into actions: inout [WorkerAction]
    ) {
        guard !tokens.isEmpty, let lane = lanes[step.key.lane] else { return }
        var entries = step.rows[...]
        for sampled in tokens {
            // Tokens come in the order of the step's rows.
            entries = entries.drop { $0.sequence != sampled.sequence }
            guard let entry = entries.first else { break }
            let row = AwaitedRow(sequence: sampled.sequence, position: entry.position + entry.count)
            var place: Int?
            for key in lane.order {
                guard let heir = steps[key], !heir.awaited.isEmpty else { continue }
                place = heir.awaited.removeValue(forKey: row)
                if let place {
                    actions.append(.setToken(key, row: place, token: sampled.token))
                    break
                }
            }
            if place == nil { lane.tables.sampled(sampled.token, of: row.sequence, at: row.position) }
        }
    }

    /// `count` outputs of the step's layer are in their place.
    mutating func outputsArrived(_ key: StepKey, count: Int) {
        guard let step = steps[key], case .experts(let missing) = step.phase else { return }
        let left = missing - count
        if left > 0 {
            step.phase = .experts(missing: left)
        } else {
            step.layer += 1
            step.phase = step.layer == view.layers.upperBound ? .output(nextRow: 0) : .layer(nextRow: 0)
            step.since = itemsStarted
            step.ticket = ticket()
        }
    }

    /// An output of the step is no number: its sequence ends.
    mutating func outputNotFinite(_ output: Int, of key: StepKey) {
        guard let sequence = steps[key]?.sequence(ofRow: output / bounds.expertsUsed) else { return }
        failSequence(sequence, lane: key.lane, .notFinite("an expert's output"))
    }

    /// Ends one sequence: its rows go along to the end of the stage, but no further, and later rows are not computed.
    mutating func failSequence(_ sequence: UInt64, lane: Int, _ failure: ProtoFailure) {
        lanes[lane]?.tables.fail(sequence, failure)
        for key in lanes[lane]?.order ?? [] {
            guard let step = steps[key], step.rows.contains(where: { $0.sequence == sequence }),
                !step.batch.failures.contains(where: { $0.sequence == sequence })
            else { continue }
            step.batch.failures.append(.init(sequence: sequence, failure: failure))
            // Its row goes along with the rest of the step, whatever its token is.
            if !step.awaited.isEmpty { step.awaited = step.awaited.filter { $0.key.sequence != sequence } }
        }
    }

    /// Ends a step with a failure, and with it the steps that need the keys and values that it would have written.
    mutating func failStep(_ key: StepKey, _ failure: Failure, into actions: inout [WorkerAction]) {
        guard let step = steps.removeValue(forKey: key), let lane = lanes[key.lane] else { return }
        lane.order.removeAll { $0 == key }
        for entry in step.rows where entry.count > 0 {
            lane.tables.fail(entry.sequence, .init(failure))
        }
        forgetWork(of: key)
        actions.append(refusal(step.batch, failure))
        actions.append(.endStep(key))
        retire(step)
        for heir in lane.order where steps[heir]?.elders.contains(key) ?? false {
            failStep(heir, failure, into: &actions)
        }
        drain(lane: lane, into: &actions)
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

    private mutating func stepDone(_ step: StepState, into actions: inout [WorkerAction]) {
        sendResult(of: step, into: &actions)
        leave(step, into: &actions)
    }

    /// At the lane's end the step's result goes to the coordinator.
    private mutating func sendResult(of step: StepState, into actions: inout [WorkerAction]) {
        guard step.role.next == nil else { return }
        steps[step.key] = nil
        lanes[step.key.lane]?.order.removeAll { $0 == step.key }
        var result = ProtoStepResult()
        result.stepID = step.key.step
        result.lane = step.batch.lane
        result.failures = step.batch.failures
        result.tokens = step.result.tokens
        result.scores = step.result.scores
        if !result.failures.isEmpty {
            let failed = Set(result.failures.map(\.sequence))
            result.tokens.removeAll { failed.contains($0.sequence) }
            result.scores.removeAll { failed.contains($0.sequence) }
        }
        for index in result.scores.indices {
            let sequence = result.scores[index].sequence
            result.scores[index].routesLast = step.batch.scoreRoutes.first { $0.sequence == sequence }?.routes ?? []
        }
        actions.append(.sendStepResult(result))
        actions.append(.endStep(step.key))
    }

    /// The step has its result, or goes on as soon as the lane's earlier steps have.
    private mutating func leave(_ step: StepState, into actions: inout [WorkerAction]) {
        if step.role.next == nil {
            retire(step)
        } else if let lane = lanes[step.key.lane] {
            drain(lane: lane, into: &actions)
        }
    }

    /// Sends on what is done, in the lane's order.
    private mutating func drain(lane: LaneState, into actions: inout [WorkerAction]) {
        while let key = lane.order.first, let step = steps[key], step.phase == .done, let next = step.role.next {
            guard links[next] != nil else {
                let failure = Failure(code: "peer_lost", message: "worker '\(next.name)' is not reached")
                return failStep(key, failure, into: &actions)
            }
            steps[key] = nil
            lane.order.removeFirst()
            step.leaveOutFailedRows()
            actions.append(.sendHidden(key, to: next, batch: step.batch, rows: step.sentRows))
            actions.append(.endStep(key))
            retire(step)
        }
    }

    private func refusal(_ batch: StepBatch, _ code: String, _ text: String) -> WorkerAction {
        refusal(batch, Failure(code: code, message: text))
    }

    private func refusal(_ batch: StepBatch, _ failure: Failure) -> WorkerAction {
        var failed = ProtoStepFailed()
        failed.stepID = batch.stepID
        failed.lane = batch.lane
        failed.failure = .init(failure)
        return .sendStepFailed(failed)
    }

    // MARK: Memory

    /// Nothing names the step any more.
    private mutating func retire(_ step: StepState) {
        let isSmall = step.batch.isSmall
        step.batch = StepBatch()
        if isSmall { spareSteps.keep(step, rows: step.rowCount) }
    }

    mutating func retire(_ request: RequestState) {
        spareRequests.keep(request, rows: request.count)
    }
}

extension WorkerMachine.StepState {
    /// A step begins whose entries are in `rows`.
    fileprivate func begin(
        _ key: StepKey, _ workClass: WorkClass, _ role: PlacementView.LaneRole, _ batch: StepBatch, layer: Int,
        chunk: Int
    ) {
        self.key = key
        self.workClass = workClass
        self.role = role
        self.batch = batch
        self.batch.failures += rows.failures
        self.layer = layer
        self.chunk = chunk
        rowCount = rows.rowCount
        phase = rowCount == 0 ? .done : .layer(nextRow: 0)
        elders.removeAll(keepingCapacity: true)
        result.removeAll()
        awaited.removeAll(keepingCapacity: true)
        var row = 0
        for entry in rows {
            if entry.isAhead {
                awaited[WorkerMachine.AwaitedRow(sequence: entry.sequence, position: entry.position)] = row
            }
            row += entry.count
        }
    }

    fileprivate func sharesSequence(with other: WorkerMachine.StepState) -> Bool {
        rows.contains { entry in
            entry.count > 0
                && other.rows.contains { $0.count > 0 && $0.sequence == entry.sequence }
        }
    }

    /// Whose row it is.
    func sequence(ofRow row: Int) -> UInt64? {
        var end = 0
        for entry in rows {
            end += entry.count
            if row < end { return entry.sequence }
        }
        return nil
    }

    /// Before the step goes on: rows of sequences that failed stay behind.
    fileprivate func leaveOutFailedRows() {
        sentRows.removeAll(keepingCapacity: true)
        let failed = Set(batch.failures.map(\.sequence))
        if !failed.isEmpty { batch.rows.removeAll { failed.contains($0.sequence) } }
        var row = 0
        for entry in rows {
            if failed.isEmpty || !failed.contains(entry.sequence) {
                for place in row..<row + entry.count { sentRows.append(place) }
            }
            row += entry.count
        }
    }

    /// Appends the routes of the last row of each sequence that wants them.
    fileprivate func noteScoreRoutes(_ routes: RowRoutes, expertsUsed: Int) {
        guard !batch.scores.isEmpty else { return }
        var end = 0
        for entry in rows {
            end += entry.count
            let last = (end - 1) * expertsUsed..<end * expertsUsed
            guard let score = batch.score(of: batch.rows[entry.index]), score.last, entry.count > 0,
                last.upperBound <= routes.experts.count
            else { continue }
            var route = ProtoRoute()
            route.experts = routes.experts[last].map { UInt32(truncatingIfNeeded: $0) }
            route.weights = Array(routes.weights[last])
            if let index = batch.scoreRoutes.firstIndex(where: { $0.sequence == entry.sequence }) {
                batch.scoreRoutes[index].routes.append(route)
            } else {
                var first = ProtoScoreRoutes()
                first.sequence = entry.sequence
                first.routes = [route]
                batch.scoreRoutes.append(first)
            }
        }
    }
}

extension ProtoFailure {
    static func notFinite(_ what: String) -> ProtoFailure {
        ProtoFailure(Failure(code: "not_finite", message: "\(what) holds a NaN or an infinity"))
    }
}
