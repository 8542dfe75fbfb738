package import Wire

// Rows on their way to experts: as a home that sends them, and as a host that computes them.
extension WorkerMachine {
    // MARK: Links to hosts and to next homes

    /// The connection to a peer stands; as a host it takes `credits` (row, expert) pairs at once.
    package mutating func linkUp(_ peer: PeerID, credits: Int) {
        links[peer] = LinkState(credits: credits)
    }

    /// The connection to a peer is gone: steps with rows there cannot be finished.
    package mutating func linkLost(_ peer: PeerID, _ failure: Failure, into actions: inout [WorkerAction]) {
        guard let link = links.removeValue(forKey: peer) else { return }
        var broken = Set((link.waitingDecode + link.waitingPrefill).map(\.step))
        for (correlation, request) in outstanding where request.peer == peer {
            outstanding[correlation] = nil
            broken.insert(request.step)
        }
        // In a fixed order, so that a run can be repeated.
        for step in broken.sorted(by: { ($0.lane, $0.step) < ($1.lane, $1.step) }) {
            failStep(step, failure, into: &actions)
        }
    }

    // MARK: Home

    /// Sends every row of a layer to the hosts of its experts, or into the own queues.
    ///
    /// - Parameter experts: of all rows, `expertsUsed` for each.
    mutating func dispatch(_ step: StepState, experts: [Int32], into actions: inout [WorkerAction]) {
        // By expert, so that a host finds the rows of one product, and later their results, side by side.
        step.sorting.sort(experts.lazy.map { Int($0) })
        for (expert, outputs) in step.sorting {
            guard let host = host(of: expert) else {
                let failure = Failure(code: "expert_unreachable", message: "no holder of expert \(expert) is reached")
                return failStep(step.key, failure, into: &actions)
            }
            guard host == view.own else { continue }
            enqueue(.own(step.key), workClass: step.workClass, layer: step.layer, expert: expert, outputs: outputs)
        }
        guard !view.hosts.isEmpty else { return }
        step.sortRemote(hosts: view.hosts) { host(of: $0) }
        var first = 0
        for (peer, end) in zip(view.hosts, step.remoteEnds) {
            defer { first = end }
            guard first < end else { continue }
            links[peer]?.wait(
                WaitingRows(
                    step: step.key, layer: step.layer, outputs: step.remoteOutputs[first..<end],
                    experts: step.remoteExperts[first..<end]), step.workClass)
            pump(peer, into: &actions)
        }
    }

    private func host(of expert: Int) -> PeerID? {
        view.host(of: expert, reachable: { (links[$0]?.credits ?? 0) > 0 })
    }

    /// Sends waiting rows as far as the host's credits go: decode first, but prefill after eight decode sends.
    private mutating func pump(_ peer: PeerID, into actions: inout [WorkerAction]) {
        guard let link = links[peer] else { return }
        while link.inFlight < link.credits, let workClass = link.nextClass() {
            let room = min(link.credits - link.inFlight, bounds.assignmentsInFrame)
            let rows = link.take(upTo: room, workClass)
            let correlation = nextCorrelation
            nextCorrelation += 1
            link.inFlight += rows.outputs.count
            outstanding[correlation] = Outstanding(
                peer: peer, step: rows.step, layer: rows.layer, outputs: rows.outputs)
            actions.append(
                .sendExperts(
                    ExpertSend(
                        peer: peer, correlation: correlation, step: rows.step, layer: rows.layer, workClass: workClass,
                        outputs: rows.outputs, experts: rows.experts)))
        }
    }

    /// A host answers. Answers to what nobody waits for are ignored: repeated, or of a step that has failed meanwhile.
    ///
    /// - Parameter notFinite: rows of the reply that hold a NaN or an infinity.
    package mutating func resultsReceived(
        _ reply: ExpertReply, correlation: UInt64, notFinite: [Int], from peer: PeerID,
        into actions: inout [WorkerAction]
    ) {
        guard let request = outstanding[correlation], request.peer == peer else { return }
        guard reply.step == request.step.step, Int(reply.lane) == request.step.lane, Int(reply.layer) == request.layer,
            reply.status != .done || reply.rowCount == request.outputs.count
        else {
            let failure = Failure(
                code: "results_mismatched",
                message: "results for step \(reply.step), layer \(reply.layer), \(reply.rowCount) rows; asked for step "
                    + "\(request.step.step), layer \(request.layer), \(request.outputs.count) rows")
            actions.append(.closeLink(peer, failure))
            return linkLost(peer, failure, into: &actions)
        }
        outstanding[correlation] = nil
        links[peer]?.inFlight -= request.outputs.count
        if reply.status != .done {
            let failure = Failure(
                code: "expert_refused", message: "worker '\(peer.name)' refused layer \(request.layer): \(reply.status)"
            )
            failStep(request.step, failure, into: &actions)
        } else if steps[request.step] != nil {
            actions.append(.storeResults(request.step, outputs: request.outputs))
            outputsArrived(request.step, count: request.outputs.count)
            for row in notFinite {
                outputNotFinite(request.outputs[request.outputs.startIndex + row], of: request.step)
            }
        }
        pump(peer, into: &actions)
    }

    // MARK: Host

    /// A peer has connected to send rows or hidden state.
    package mutating func homeJoined(_ home: HomeID, peer: PeerID) {
        homes[home] = HomeState(peer: peer)
    }

    /// A home is gone: what it waits for is not computed.
    package mutating func homeLost(_ home: HomeID, into actions: inout [WorkerAction]) {
        guard homes.removeValue(forKey: home) != nil else { return }
        let keys = requests.keys.filter { $0.home == home }.sorted { $0.correlation < $1.correlation }
        for key in keys { requests[key] = nil }
        let gone = Set(keys)
        forgetPieces { source in
            if case .remote(let request) = source { gone.contains(request) } else { false }
        }
        for key in keys { actions.append(.endRequest(key)) }
    }

    /// A home asks for products. The frame fits the model (`ExpertRequest` has checked that); whether it fits this worker
    /// is decided here.
    ///
    /// - Parameter format: what the experts of the request's layer take; nil if this worker does not hold the layer.
    package mutating func expertsReceived(
        _ request: ExpertRequest, correlation: UInt64, format: RowFormat?, from home: HomeID,
        into actions: inout [WorkerAction]
    ) {
        let key = RequestKey(home: home, correlation: correlation)
        guard let state = homes[home], requests[key] == nil else { return }
        let count = request.assignments.count
        guard count <= bounds.rowCredits - state.inFlight else {
            let failure = Failure(
                code: "row_credits_exceeded",
                message: "\(state.inFlight) + \(count) rows under way, the host takes \(bounds.rowCredits)")
            actions.append(.closeHome(home, failure))
            return
        }
        let layer = Int(request.layer)
        let held = view.experts
        guard view.layers.contains(layer), view.members.contains(where: { $0.peer == state.peer }),
            request.assignments.allSatisfy({ held.contains(Int($0.expert)) })
        else {
            actions.append(.refuseRequest(key, .notHeld))
            return
        }
        guard request.format == format else {
            let found = "format \(request.format), layer \(layer) takes \(format.map { "\($0)" } ?? "none")"
            actions.append(.closeHome(home, Failure(code: "rows_malformed", message: found)))
            return
        }
        state.inFlight += count
        let new = spareRequests.take() ?? RequestState()
        new.count = count
        new.missing = count
        new.sorting.sort(request.assignments.lazy.map { Int($0.expert) })
        requests[key] = new
        for (expert, outputs) in new.sorting {
            enqueue(
                .remote(key), workClass: request.isPrefill ? .prefill : .decode, layer: layer, expert: expert,
                outputs: outputs)
        }
        actions.append(.beginRequest(key))
    }

    /// An `ExpertWork` has been computed.
    ///
    /// - Parameter notFinite: outputs of own steps that hold a NaN or an infinity.
    package mutating func expertFinished(
        _ work: ExpertWork, notFinite: [StepKey: [Int]], into actions: inout [WorkerAction]
    ) {
        for piece in work.pieces {
            switch piece.source {
            case .own(let key):
                outputsArrived(key, count: piece.outputs.count)
                for output in notFinite[key] ?? [] { outputNotFinite(output, of: key) }
            case .remote(let key):
                guard let request = requests[key] else { continue }
                request.missing -= piece.outputs.count
                guard request.missing == 0 else { continue }
                requests[key] = nil
                homes[key.home]?.inFlight -= request.count
                actions.append(.sendResults(key))
                actions.append(.endRequest(key))
                retire(request)
            }
        }
    }

    /// The product could not be computed: requests are refused, own steps fail.
    package mutating func expertBroke(_ work: ExpertWork, _ failure: Failure, into actions: inout [WorkerAction]) {
        for piece in work.pieces {
            switch piece.source {
            case .own(let key):
                failStep(key, failure, into: &actions)
            case .remote(let key):
                guard let request = requests.removeValue(forKey: key) else { continue }
                homes[key.home]?.inFlight -= request.count
                forgetPieces { $0 == .remote(key) }
                actions.append(.refuseRequest(key, .failed))
                actions.append(.endRequest(key))
            }
        }
    }

    /// Workers whose rows a product holds, this one among them.
    package func workers(in work: ExpertWork) -> Int {
        var count = 0
        for (index, piece) in work.pieces.enumerated() {
            let peer = peer(of: piece)
            if !work.pieces.prefix(index).contains(where: { self.peer(of: $0) == peer }) { count += 1 }
        }
        return count
    }

    private func peer(of piece: ExpertWork.Piece) -> PeerID? {
        switch piece.source {
        case .own: view.own
        case .remote(let key): homes[key.home]?.peer
        }
    }

    // MARK: Queues

    private mutating func enqueue(
        _ source: ExpertWork.Piece.Source, workClass: WorkClass, layer: Int, expert: Int, outputs: ArraySlice<Int>
    ) {
        let key = QueueKey(workClass: workClass, layer: layer, expert: expert)
        let piece = ExpertWork.Piece(source: source, outputs: outputs)
        // Taken out and put back: a value is changed in its place by way of memory that is allocated for that.
        if var queue = queues.removeValue(forKey: key) {
            queue.pieces.append(piece)
            queues[key] = queue
        } else {
            queues[key] = ExpertQueue(pieces: .init(piece), since: itemsStarted, ticket: ticket())
        }
    }

    /// Takes a step's rows out of every queue. What is at a host already comes back and is ignored, with its credits.
    mutating func forgetWork(of step: StepKey) {
        for link in links.values { link.forget(step) }
        forgetPieces { $0 == .own(step) }
    }

    private mutating func forgetPieces(_ isGone: (ExpertWork.Piece.Source) -> Bool) {
        for (key, queue) in queues where queue.pieces.contains(where: { isGone($0.source) }) {
            let pieces = ExpertWork.Pieces(queue.pieces.filter { !isGone($0.source) })
            queues[key] = pieces.isEmpty ? nil : ExpertQueue(pieces: pieces, since: queue.since, ticket: queue.ticket)
        }
    }
}

extension WorkerMachine.LinkState {
    fileprivate func wait(_ rows: WorkerMachine.WaitingRows, _ workClass: WorkClass) {
        switch workClass {
        case .decode: waitingDecode.append(rows)
        case .prefill: waitingPrefill.append(rows)
        }
    }

    /// Whose turn it is, nil if nothing waits.
    fileprivate func nextClass() -> WorkClass? {
        guard !waitingPrefill.isEmpty else {
            decodeStreak = 0
            return waitingDecode.isEmpty ? nil : .decode
        }
        guard !waitingDecode.isEmpty, decodeStreak < 8 else {
            decodeStreak = 0
            return .prefill
        }
        decodeStreak += 1
        return .decode
    }

    /// The first of the waiting rows, of which there are some, or as many of them as there is room for.
    fileprivate func take(upTo room: Int, _ workClass: WorkClass) -> WorkerMachine.WaitingRows {
        switch workClass {
        case .decode: Self.take(upTo: room, from: &waitingDecode)
        case .prefill: Self.take(upTo: room, from: &waitingPrefill)
        }
    }

    private static func take(
        upTo room: Int, from waiting: inout [WorkerMachine.WaitingRows]
    ) -> WorkerMachine.WaitingRows {
        let rows = waiting[0]
        guard rows.outputs.count > room else { return waiting.removeFirst() }
        waiting[0].outputs = rows.outputs.dropFirst(room)
        waiting[0].experts = rows.experts.dropFirst(room)
        return WorkerMachine.WaitingRows(
            step: rows.step, layer: rows.layer, outputs: rows.outputs.prefix(room), experts: rows.experts.prefix(room))
    }

    fileprivate func forget(_ step: StepKey) {
        waitingDecode.removeAll { $0.step == step }
        waitingPrefill.removeAll { $0.step == step }
    }
}

extension WorkerMachine.StepState {
    /// Puts the outputs that other hosts compute side by side, host by host.
    fileprivate func sortRemote(hosts: [PeerID], hostOf: (Int) -> PeerID?) {
        remoteOutputs.removeAll(keepingCapacity: true)
        remoteExperts.removeAll(keepingCapacity: true)
        remoteEnds.removeAll(keepingCapacity: true)
        for host in hosts {
            for (expert, outputs) in sorting where hostOf(expert) == host {
                remoteOutputs.append(contentsOf: outputs)
                for _ in outputs { remoteExperts.append(expert) }
            }
            remoteEnds.append(remoteOutputs.count)
        }
    }
}

/// Places of a list of experts, by expert: the experts that occur, lowest first, each with its places in order.
struct SortedOutputs: Sequence, IteratorProtocol {
    private var sorted: [Int] = []
    /// By expert: where its places end in `sorted`.
    private var ends: [Int] = []
    private var expert = 0

    /// - Parameter experts: negative where a place has none.
    mutating func sort(_ experts: some RandomAccessCollection<Int>) {
        ends.removeAll(keepingCapacity: true)
        for expert in experts where expert >= 0 {
            while ends.count <= expert { ends.append(0) }
            ends[expert] += 1
        }
        var begin = 0
        for expert in ends.indices { (ends[expert], begin) = (begin, begin + ends[expert]) }
        sorted.removeAll(keepingCapacity: true)
        for _ in 0..<begin { sorted.append(0) }
        for (place, expert) in experts.enumerated() where expert >= 0 {
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
