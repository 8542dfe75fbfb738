import Engine
import Logging
import ModelStore
import NIOCore
import Transport
import Wire

// Items and actions: where the machine's words meet the engine's rows and the connections.
extension DataPlane {
    /// Computes an item.
    func run(_ item: WorkItem, _ epoch: Epoch) {
        let start = NIODeadline.now()
        switch item {
        case .layer(let work):
            do {
                guard let step = epoch.steps[work.step] else { return }
                let routes = try layer(work, step, epoch)
                epoch.pace.layerTook(nanoseconds: (NIODeadline.now() - start).nanoseconds, rows: work.rows.count)
                epoch.machine.layerRows = epoch.pace.layerRows
                tell(epoch) { $0.layerFinished(work, routes: routes, into: &$1) }
            } catch {
                tell(epoch) { $0.stepBroke(work.step, Self.failure(error), into: &$1) }
            }
        case .expert(let work):
            epoch.works.append(work)
            epoch.machine.addCompanions(of: work, to: &epoch.works)
            // Nothing else holds what the works name, so that its memory can be used again.
            defer { epoch.works.removeAll(keepingCapacity: true) }
            do {
                let notFinite = try experts(epoch)
                let rows = epoch.works.reduce(0) { $0 + $1.rowCount }
                epoch.pace.expertTook(nanoseconds: (NIODeadline.now() - start).nanoseconds, rows: rows)
                epoch.machine.expertRows = epoch.pace.expertRows
                tell(epoch) { machine, actions in
                    for (index, work) in epoch.works.enumerated() {
                        machine.expertFinished(work, notFinite: notFinite[index] ?? [:], into: &actions)
                    }
                }
            } catch {
                tell(epoch) { machine, actions in
                    for work in epoch.works { machine.expertBroke(work, Self.failure(error), into: &actions) }
                }
            }
        case .output(let work):
            do {
                guard let step = epoch.steps[work.step] else { return }
                try output(work, step, epoch)
                tell(epoch) { $0.outputFinished(work, result: epoch.output, into: &$1) }
            } catch {
                tell(epoch) { $0.stepBroke(work.step, Self.failure(error), into: &$1) }
            }
        }
    }

    private static func failure(_ error: any Error) -> Failure {
        switch error {
        case let error as EngineError: Failure(code: error.code, message: error.message)
        case let error as Failure: error
        default: Failure(code: "engine_failed", message: "\(error)")
        }
    }

    private func layer(_ work: LayerWork, _ step: StepBuffers, _ epoch: Epoch) throws -> RowRoutes {
        let engine = epoch.engine
        let chunk = step.place(ofRow: work.rows.lowerBound).chunk
        if work.layer != engine.shard.layers.lowerBound {
            try combine(chunk, step, engine)
        } else if !chunk.tokens.isEmpty {
            try engine.embed(chunk.tokens, into: chunk.hidden)
        }
        try engine.attention(layer: work.layer, batch: chunk.batch, hidden: chunk.hidden)
        let routed = try engine.route(
            layer: work.layer, batch: chunk.batch, hidden: chunk.hidden, into: chunk.routed)
        let (experts, weights) = routed.choices
        epoch.routes.removeAll()
        epoch.routes.append(experts: experts, weights: weights)
        return epoch.routes
    }

    /// Adds the experts' outputs of the layer that the chunk was routed in.
    private func combine(_ chunk: StepBuffers.Chunk, _ step: StepBuffers, _ engine: Engine) throws {
        let used = engine.shape.expertsUsed
        try withUnsafeTemporaryAllocation(of: UnsafePointer<Float>.self, capacity: used) { outputs in
            for row in 0..<chunk.rows.count where chunk.routed.isRouted(row) {
                for choice in 0..<used {
                    let output = (chunk.rows.lowerBound + row) * used + choice
                    outputs.initializeElement(at: choice, to: UnsafePointer(step.outputs[output]))
                }
                try engine.combine(
                    hidden: chunk.hidden, row: row, routed: chunk.routed, outputs: UnsafeBufferPointer(outputs))
            }
        }
    }

    /// A product for each of the epoch's works over the rows of all its pieces; the results go into the steps' and requests'
    /// places.
    ///
    /// - Returns: outputs of own steps that hold a NaN or an infinity, by the work's place.
    private func experts(_ epoch: Epoch) throws -> [Int: [StepKey: [Int]]] {
        let engine = epoch.engine
        let used = engine.shape.expertsUsed
        let width = engine.shape.hidden
        epoch.gathered.removeAll()
        for work in epoch.works {
            epoch.gathered.begin(expert: work.expert)
            for piece in work.pieces {
                switch piece.source {
                case .own(let key):
                    guard let step = epoch.steps[key] else { continue }
                    for output in piece.outputs {
                        let place = step.place(ofRow: output / used)
                        epoch.gathered.add(place.chunk.routed.encodedRow(place.row), target: step.outputs[output])
                    }
                case .remote(let key):
                    guard let request = epoch.requests[key] else { continue }
                    for output in piece.outputs {
                        epoch.gathered.add(request.row(ofAssignment: output), target: request.results[output])
                    }
                }
            }
            epoch.gathered.end()
        }
        guard let layer = epoch.works.first?.layer else { return [:] }
        let gathered = epoch.gathered
        epoch.products.resize(rows: gathered.rows.count)
        try engine.experts(
            layer: layer, groups: gathered.groups, rows: gathered.rows, format: engine.expertInput[layer],
            into: epoch.products)
        for (index, target) in gathered.targets.enumerated() {
            target.update(from: epoch.products[index], count: width)
        }
        var notFinite: [Int: [StepKey: [Int]]] = [:]
        var row = 0
        for (index, work) in epoch.works.enumerated() {
            var remoteRows = 0
            let first = row
            for piece in work.pieces {
                switch piece.source {
                case .own(let key):
                    guard epoch.steps[key] != nil else { continue }
                    for output in piece.outputs {
                        if !epoch.products.isFinite(row: row) {
                            notFinite[index, default: [:]][key, default: []].append(output)
                        }
                        row += 1
                    }
                case .remote(let key):
                    // What goes to another home is checked there.
                    guard epoch.requests[key] != nil else { continue }
                    row += piece.outputs.count
                    remoteRows += piece.outputs.count
                }
            }
            accounting.productComputed(
                layer: layer, expert: work.expert, rows: row - first, remoteRows: remoteRows,
                homes: epoch.machine.workers(in: work))
        }
        return notFinite
    }

    /// The end of a stage for some rows, and at the end of the lane their logits and what is read from them, which goes to the
    /// epoch's `output`.
    private func output(_ work: OutputWork, _ step: StepBuffers, _ epoch: Epoch) throws {
        let engine = epoch.engine
        let chunk = step.place(ofRow: work.rows.lowerBound).chunk
        try combine(chunk, step, engine)
        epoch.output.removeAll()
        guard engine.shard.head else { return }
        epoch.wanted.removeAll()
        step.forEachRowRead(in: work.rows) { row, entry, offset in
            epoch.wanted.add(entry: entry, offset: offset, place: row - chunk.rows.lowerBound)
        }
        // 64 rows of logits at once bound their memory: 8 MiB at a vocabulary of 32,768.
        for first in stride(from: 0, to: epoch.wanted.rows.count, by: 64) {
            let part = first..<min(first + 64, epoch.wanted.rows.count)
            try engine.logits(hidden: chunk.hidden, rows: epoch.wanted.places[part], into: epoch.logits)
            for index in part {
                let row = epoch.wanted.rows[index]
                read(
                    epoch.logits.row(index - first), of: step.entries[row.entry], step.batch, at: row.offset,
                    epoch)
            }
        }
    }

    /// Scores and samples one row.
    ///
    /// - Parameter offset: the row among the sequence's rows of this step.
    private func read(
        _ logits: UnsafeMutableBufferPointer<Float>, of entry: StepEntries.Entry, _ batch: StepBatch, at offset: Int,
        _ epoch: Epoch
    ) {
        func fail() {
            epoch.output.failures.append(.init(sequence: entry.sequence, failure: .notFinite("a row of logits")))
        }
        let isLast = offset == entry.count - 1
        let rows = batch.rows[entry.index]
        if let score = batch.score(of: rows) {
            let target = offset < score.targets.count ? score.targets[offset] : nil
            guard
                let scored = scoreRow(logits: UnsafeBufferPointer(logits), top: Int(score.top), target: target)
            else { return fail() }
            var part = ProtoScoredRows()
            part.sequence = entry.sequence
            part.position = UInt32(clamping: entry.position)
            var top = ProtoTopTokens()
            top.tokens = scored.top.map { token, logit in
                var pair = ProtoTokenLogit()
                pair.token = token
                pair.logit = logit
                return pair
            }
            part.top = [top]
            part.nll = scored.nll.map { [$0] } ?? []
            if isLast, score.last { part.lastLogits = Array(logits) }
            epoch.output.add(part)
        }
        if isLast, rows.sample, let sampling = entry.sampling {
            for bias in sampling.parameters.logitBias { Sampler.add(bias.bias, to: bias.token, in: logits) }
            guard
                let token = epoch.sampler.sample(
                    logits: logits, parameters: SamplingParameters(withoutBias: sampling.parameters),
                    position: entry.position + entry.count)
            else { return fail() }
            var sampled = ProtoSampledToken()
            sampled.sequence = entry.sequence
            sampled.token = token
            epoch.output.tokens.append(sampled)
        }
    }

    // MARK: Actions

    /// Tells the machine what has happened and does what it says.
    ///
    /// - Parameters:
    ///   - rows: rows of the frame that happened.
    ///   - request: the request that happened.
    func tell(
        _ epoch: Epoch, rows: ByteBuffer? = nil, request: ExpertRequest? = nil,
        _ event: (inout WorkerMachine, inout [WorkerAction]) -> Void
    ) {
        // Taken out, since what is done may be an event itself.
        var actions = epoch.actions
        epoch.actions = []
        event(&epoch.machine, &actions)
        for action in actions { perform(action, rows: rows, request: request, epoch) }
        actions.removeAll(keepingCapacity: true)
        epoch.actions = actions
        scheduleItem()
    }

    private func perform(_ action: WorkerAction, rows: ByteBuffer?, request: ExpertRequest?, _ epoch: Epoch) {
        let number = epoch.machine.view.epoch
        let width = epoch.engine.shape.hidden
        switch action {
        case .beginStep(let key, let batch, let entries, let chunk):
            begin(key, batch: batch, entries: entries, chunk: chunk, rows: rows, epoch)
        case .setToken(let key, let row, let token):
            guard let place = epoch.steps[key]?.place(ofRow: row) else { return }
            place.chunk.tokens[place.row] = token
        case .sendExperts(let send):
            sendExperts(send, epoch)
        case .storeResults(let key, let outputs):
            guard let step = epoch.steps[key], let rows else { return }
            rows.withUnsafeReadableBytes { bytes in
                for (index, output) in outputs.enumerated() {
                    UnsafeMutableRawBufferPointer(step.outputs.row(output)).copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: bytes[(index * width * 4)...].prefix(width * 4)))
                }
            }
        case .sendHidden(let key, let peer, let batch, let rows):
            guard let step = epoch.steps[key], let connection = links[peer]?.connection else { return }
            connection.send(.hidden, epoch: number) { payload in
                HiddenState.write(step: batch, columns: width, into: &payload) { space in
                    for (index, row) in rows.enumerated() {
                        let place = step.place(ofRow: row)
                        UnsafeMutableRawBufferPointer(rebasing: space[(index * width * 4)...].prefix(width * 4))
                            .copyMemory(from: UnsafeRawBufferPointer(place.chunk.hidden.row(place.row)))
                    }
                }
            }
        case .sendStepResult(let result):
            coordinator?.send(.stepResult, epoch: number) { result.write(into: &$0) }
        case .sendStepFailed(let failed):
            logger.warning(
                "a step failed",
                metadata: ["step": "\(failed.stepID)", "lane": "\(failed.lane)", "code": "\(failed.failure.code)"])
            accounting.stepFailed(code: failed.failure.code)
            coordinator?.send(Frame(.stepFailed, failed, epoch: number))
        case .endStep(let key):
            if let step = epoch.steps.removeValue(forKey: key) {
                accounting.stepEnded(step.batch.workClass, after: .now() - step.began)
                epoch.spare.take(step)
            }
        case .beginRequest(let key):
            if let request { epoch.requests[key] = epoch.spare.request(request) }
        case .sendResults(let key):
            sendResults(key, epoch)
        case .refuseRequest(let key, let status):
            guard let head = request ?? epoch.requests[key]?.request else { return }
            let reply = ExpertReply(
                step: head.step, lane: head.lane, layer: head.layer, status: status, rowCount: 0, columns: width)
            homes[key.home]?.send(
                Frame(.expertResults, correlation: key.correlation, epoch: number, payload: reply.payload()))
        case .endRequest(let key):
            if let request = epoch.requests.removeValue(forKey: key) { epoch.spare.take(request) }
        case .closeHome(let home, let failure):
            homes[home]?.close(failure)
        case .closeLink(let peer, let failure):
            links[peer]?.connection?.close(failure)
        }
    }

    private func begin(
        _ key: StepKey, batch: StepBatch, entries: StepEntries, chunk: Int, rows: ByteBuffer?, _ epoch: Epoch
    ) {
        do {
            epoch.steps[key] = try epoch.spare.step(
                batch, entries: entries, chunkRows: chunk, rows: rows, engine: epoch.engine)
            accounting.stepBegan(
                batch.workClass, rows: entries.rowCount, requests: entries.count { $0.count > 0 })
        } catch {
            tell(epoch) { $0.stepBroke(key, Self.failure(error), into: &$1) }
        }
    }

    private func sendExperts(_ send: ExpertSend, _ epoch: Epoch) {
        guard let step = epoch.steps[send.step], let connection = links[send.peer]?.connection,
            let format = RowFormat(rawValue: epoch.engine.expertInput[send.layer].rawValue)
        else { return }
        epoch.sending.choose(send, rows: step.entries.rowCount, expertsUsed: epoch.engine.shape.expertsUsed)
        let sending = epoch.sending
        let columns = epoch.engine.shape.hidden
        let rowBytes = format.rowBytes(columns: columns)
        connection.send(.experts, correlation: send.correlation, epoch: epoch.machine.view.epoch) { payload in
            ExpertRequest.write(
                step: send.step.step, lane: UInt32(clamping: send.step.lane), layer: UInt32(clamping: send.layer),
                isPrefill: send.workClass == .prefill, format: format, rowCount: sending.rows.count, columns: columns,
                assignments: sending.assignments, into: &payload
            ) { space in
                for (index, row) in sending.rows.enumerated() {
                    let place = step.place(ofRow: row)
                    let encoded = UnsafeRawBufferPointer(
                        start: place.chunk.routed.encodedRow(place.row), count: rowBytes)
                    UnsafeMutableRawBufferPointer(rebasing: space[(index * rowBytes)...].prefix(rowBytes)).copyMemory(
                        from: encoded)
                }
            }
        }
    }

    private func sendResults(_ key: RequestKey, _ epoch: Epoch) {
        guard let request = epoch.requests[key] else { return }
        let head = request.request
        let results = request.results
        homes[key.home]?.send(
            .expertResults, correlation: key.correlation, epoch: epoch.machine.view.epoch,
            body: UnsafeRawBufferPointer(start: results.base, count: results.rows * results.width * 4)
        ) { payload in
            ExpertReply.writeHead(
                step: head.step, lane: head.lane, layer: head.layer, rowCount: results.rows, columns: results.width,
                into: &payload)
        }
    }
}

extension SamplingParameters {
    /// All but the logit bias, which is added where the message lies.
    init(withoutBias message: ProtoSamplingParameters) {
        self.init(
            temperature: message.temperature, topK: Int(message.topK), topP: message.topP, minP: message.minP,
            seed: message.seed, choice: message.choice)
    }
}
