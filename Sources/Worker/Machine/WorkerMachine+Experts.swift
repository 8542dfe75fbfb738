package import Wire

// Rows on their way to experts: as a home that sends them, and as a host that computes them.
extension WorkerMachine {
    // MARK: Links to hosts and to next homes

    /// The connection to a peer stands; as a host it takes `credits` (row, expert) pairs at once.
    package mutating func linkUp(_ peer: PeerID, credits: Int) {
        links[peer] = LinkState(credits: credits)
    }

    /// The connection to a peer is gone: steps with rows there cannot be finished.
    package mutating func linkLost(_ peer: PeerID, _ failure: Failure) -> [WorkerAction] {
        guard let link = links.removeValue(forKey: peer) else { return [] }
        var broken = Set(link.waiting.values.joined().map(\.step))
        for (correlation, request) in outstanding where request.peer == peer {
            outstanding[correlation] = nil
            broken.insert(request.step)
        }
        // In a fixed order, so that a run can be repeated.
        return broken.sorted { ($0.lane, $0.step) < ($1.lane, $1.step) }.flatMap { failStep($0, failure) }
    }

    // MARK: Home

    /// Sends every row of a layer to the hosts of its experts, or into the own queues.
    ///
    /// - Parameter experts: of all rows, `expertsUsed` for each.
    mutating func dispatch(_ key: StepKey, experts: [Int32]) -> [WorkerAction] {
        guard let step = steps[key] else { return [] }
        // By expert, so that a host finds the rows of one product, and later their results, side by side.
        sorting.sort(experts.lazy.map { Int($0) })
        for (expert, _) in sorting where host(of: expert) == nil {
            return failStep(
                key, Failure(code: "expert_unreachable", message: "no holder of expert \(expert) is reached"))
        }
        var remote: [PeerID: WaitingRows] = [:]
        for (expert, outputs) in sorting {
            guard let host = host(of: expert) else { continue }
            if host == view.own {
                enqueue(.own(key), workClass: step.workClass, layer: step.layer, expert: expert, outputs: outputs)
            } else {
                remote[host, default: WaitingRows(step: key, layer: step.layer, outputs: [], experts: [])]
                    .append(outputs, of: expert)
            }
        }
        var actions: [WorkerAction] = []
        for (peer, rows) in remote.sorted(by: { $0.key < $1.key }) {
            links[peer]?.waiting[step.workClass, default: []].append(rows)
            actions += pump(peer)
        }
        return actions
    }

    private func host(of expert: Int) -> PeerID? {
        view.host(of: expert, reachable: { (links[$0]?.credits ?? 0) > 0 })
    }

    /// Sends waiting rows as far as the host's credits go: decode first, but prefill after eight decode sends.
    mutating func pump(_ peer: PeerID) -> [WorkerAction] {
        guard var link = links[peer] else { return [] }
        defer { links[peer] = link }
        var actions: [WorkerAction] = []
        while link.inFlight < link.credits {
            let hasDecode = !(link.waiting[.decode] ?? []).isEmpty
            let hasPrefill = !(link.waiting[.prefill] ?? []).isEmpty
            guard hasDecode || hasPrefill else { break }
            let workClass: WorkClass = hasDecode && !(hasPrefill && link.decodeStreak >= 8) ? .decode : .prefill
            link.decodeStreak = workClass == .decode && hasPrefill ? link.decodeStreak + 1 : 0
            guard var rows = link.waiting[workClass]?.removeFirst() else { break }
            let count = min(link.credits - link.inFlight, rows.outputs.count, bounds.assignmentsInFrame)
            let correlation = nextCorrelation
            nextCorrelation += 1
            let send = ExpertSend(
                peer: peer, correlation: correlation, step: rows.step, layer: rows.layer, workClass: workClass,
                outputs: Array(rows.outputs.prefix(count)), experts: Array(rows.experts.prefix(count)))
            rows.outputs = rows.outputs.dropFirst(count)
            rows.experts = rows.experts.dropFirst(count)
            if !rows.outputs.isEmpty { link.waiting[workClass]?.insert(rows, at: 0) }
            link.inFlight += count
            outstanding[correlation] = Outstanding(
                peer: peer, step: rows.step, layer: rows.layer, outputs: send.outputs)
            actions.append(.sendExperts(send))
        }
        return actions
    }

    /// A host answers. Answers to what nobody waits for are ignored: repeated, or of a step that has failed meanwhile.
    ///
    /// - Parameter notFinite: rows of the reply that hold a NaN or an infinity.
    package mutating func resultsReceived(
        _ reply: ExpertReply, correlation: UInt64, notFinite: [Int], from peer: PeerID
    ) -> [WorkerAction] {
        guard let request = outstanding[correlation], request.peer == peer else { return [] }
        guard reply.step == request.step.step, Int(reply.lane) == request.step.lane, Int(reply.layer) == request.layer,
            reply.status != .done || reply.rowCount == request.outputs.count
        else {
            let failure = Failure(
                code: "results_mismatched",
                message: "results for step \(reply.step), layer \(reply.layer), \(reply.rowCount) rows; asked for step "
                    + "\(request.step.step), layer \(request.layer), \(request.outputs.count) rows")
            return [.closeLink(peer, failure)] + linkLost(peer, failure)
        }
        outstanding[correlation] = nil
        links[peer]?.inFlight -= request.outputs.count
        var actions: [WorkerAction] = []
        if reply.status != .done {
            let failure = Failure(
                code: "expert_refused", message: "worker '\(peer.name)' refused layer \(request.layer): \(reply.status)"
            )
            actions = failStep(request.step, failure)
        } else if steps[request.step] != nil {
            actions = [.storeResults(request.step, outputs: request.outputs)]
            outputsArrived(request.step, count: request.outputs.count, notFinite: notFinite.map { request.outputs[$0] })
        }
        return actions + pump(peer)
    }

    // MARK: Host

    /// A peer has connected to send rows or hidden state.
    package mutating func homeJoined(_ home: HomeID, peer: PeerID) {
        homes[home] = HomeState(peer: peer)
    }

    /// A home is gone: what it waits for is not computed.
    package mutating func homeLost(_ home: HomeID) -> [WorkerAction] {
        guard homes.removeValue(forKey: home) != nil else { return [] }
        let keys = requests.keys.filter { $0.home == home }.sorted { $0.correlation < $1.correlation }
        for key in keys { requests[key] = nil }
        let gone = Set(keys)
        for (key, queue) in queues {
            let pieces = ExpertWork.Pieces(
                queue.pieces.filter { piece in
                    if case .remote(let request) = piece.source { return !gone.contains(request) }
                    return true
                })
            queues[key] = pieces.isEmpty ? nil : ExpertQueue(pieces: pieces, since: queue.since, ticket: queue.ticket)
        }
        return keys.map { .endRequest($0) }
    }

    /// A home asks for products. The frame fits the model (`ExpertRequest` has checked that); whether it fits this worker
    /// is decided here.
    ///
    /// - Parameter format: what the experts of the request's layer take; nil if this worker does not hold the layer.
    package mutating func expertsReceived(
        _ request: ExpertRequest, correlation: UInt64, format: RowFormat?, from home: HomeID
    ) -> [WorkerAction] {
        let key = RequestKey(home: home, correlation: correlation)
        guard var state = homes[home], requests[key] == nil else { return [] }
        let count = request.assignments.count
        guard count <= bounds.rowCredits - state.inFlight else {
            let failure = Failure(
                code: "row_credits_exceeded",
                message: "\(state.inFlight) + \(count) rows under way, the host takes \(bounds.rowCredits)")
            return [.closeHome(home, failure)]
        }
        let layer = Int(request.layer)
        let held = view.experts
        guard view.layers.contains(layer), view.members.contains(where: { $0.peer == state.peer }),
            request.assignments.allSatisfy({ held.contains(Int($0.expert)) })
        else { return [.refuseRequest(key, .notHeld)] }
        guard request.format == format else {
            let found = "format \(request.format), layer \(layer) takes \(format.map { "\($0)" } ?? "none")"
            return [.closeHome(home, Failure(code: "rows_malformed", message: found))]
        }
        state.inFlight += count
        homes[home] = state
        requests[key] = RequestState(count: count, missing: count)
        sorting.sort(request.assignments.lazy.map { Int($0.expert) })
        for (expert, outputs) in sorting {
            enqueue(
                .remote(key), workClass: request.isPrefill ? .prefill : .decode, layer: layer, expert: expert,
                outputs: outputs)
        }
        return [.beginRequest(key)]
    }

    /// An `ExpertWork` has been computed.
    ///
    /// - Parameter notFinite: outputs of own steps that hold a NaN or an infinity.
    package mutating func expertFinished(_ work: ExpertWork, notFinite: [StepKey: [Int]]) -> [WorkerAction] {
        var actions: [WorkerAction] = []
        for piece in work.pieces {
            switch piece.source {
            case .own(let key):
                outputsArrived(key, count: piece.outputs.count, notFinite: notFinite[key] ?? [])
            case .remote(let key):
                guard var request = requests[key] else { continue }
                request.missing -= piece.outputs.count
                requests[key] = request.missing == 0 ? nil : request
                guard request.missing == 0 else { continue }
                homes[key.home]?.inFlight -= request.count
                actions += [.sendResults(key), .endRequest(key)]
            }
        }
        return actions
    }

    /// The product could not be computed: requests are refused, own steps fail.
    package mutating func expertBroke(_ work: ExpertWork, _ failure: Failure) -> [WorkerAction] {
        var actions: [WorkerAction] = []
        for piece in work.pieces {
            switch piece.source {
            case .own(let key):
                actions += failStep(key, failure)
            case .remote(let key):
                guard let request = requests.removeValue(forKey: key) else { continue }
                homes[key.home]?.inFlight -= request.count
                forgetPieces { $0 == .remote(key) }
                actions += [.refuseRequest(key, .failed), .endRequest(key)]
            }
        }
        return actions
    }

    /// The workers whose rows a product holds.
    package func peers(in work: ExpertWork) -> Set<PeerID> {
        Set(
            work.pieces.compactMap { piece in
                switch piece.source {
                case .own: view.own
                case .remote(let key): homes[key.home]?.peer
                }
            })
    }

    // MARK: Queues

    private mutating func enqueue(
        _ source: ExpertWork.Piece.Source, workClass: WorkClass, layer: Int, expert: Int, outputs: ArraySlice<Int>
    ) {
        let key = QueueKey(workClass: workClass, layer: layer, expert: expert)
        let piece = ExpertWork.Piece(source: source, outputs: outputs)
        if queues[key] == nil {
            queues[key] = ExpertQueue(pieces: .init(CollectionOfOne(piece)), since: itemsStarted, ticket: ticket())
        } else {
            queues[key]?.pieces.append(piece)
        }
    }

    /// Takes a step's rows out of every queue. What is at a host already comes back and is ignored, with its credits.
    mutating func forgetWork(of step: StepKey) {
        for peer in links.keys {
            for workClass in WorkClass.allCases {
                links[peer]?.waiting[workClass]?.removeAll { $0.step == step }
            }
        }
        forgetPieces { $0 == .own(step) }
    }

    private mutating func forgetPieces(_ isGone: (ExpertWork.Piece.Source) -> Bool) {
        for (key, queue) in queues where queue.pieces.contains(where: { isGone($0.source) }) {
            let pieces = ExpertWork.Pieces(queue.pieces.filter { !isGone($0.source) })
            queues[key] = pieces.isEmpty ? nil : ExpertQueue(pieces: pieces, since: queue.since, ticket: queue.ticket)
        }
    }
}

/// Places of a list of experts, by expert: the experts that occur, lowest first, each with its places in order.
struct SortedOutputs: Sequence, IteratorProtocol {
    /// Used again when nobody holds a part of it any more.
    private var sorted: [Int] = []
    /// By expert: where its places end in `sorted`.
    private var ends: [Int] = []
    private var expert = 0

    /// - Parameter experts: none is negative.
    mutating func sort(_ experts: some RandomAccessCollection<Int>) {
        ends.removeAll(keepingCapacity: true)
        for expert in experts {
            while ends.count <= expert { ends.append(0) }
            ends[expert] += 1
        }
        var begin = 0
        for expert in ends.indices { (ends[expert], begin) = (begin, begin + ends[expert]) }
        sorted.removeAll(keepingCapacity: true)
        for _ in experts { sorted.append(0) }
        for (place, expert) in experts.enumerated() {
            sorted[ends[expert]] = place
            ends[expert] += 1
        }
    }

    mutating func next() -> (expert: Int, outputs: ArraySlice<Int>)? {
        while expert < ends.count {
            defer { expert += 1 }
            let outputs = (expert > 0 ? ends[expert - 1] : 0)..<ends[expert]
            if !outputs.isEmpty { return (expert, sorted[outputs]) }
        }
        return nil
    }
}
