import NIOCore
import TestSupport
import Wire
import Worker

private func mix(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
}

/// A toy decoder on 64-bit numbers: the row's value depends on its token, on what the position before it left in the pages
/// (and so on all earlier ones), on its experts and on their order, so that any mistake in bookkeeping changes the token.
enum Toy {
    static let experts = 5
    static let used = 2
    static let vocabulary = 1_000
    /// Stands for a NaN: whatever touches it is one too.
    static let notFinite = UInt64.max

    static func combine(_ values: UInt64...) -> UInt64 {
        if values.contains(notFinite) { return notFinite }
        let result = values.reduce(0x1234_5678) { mix($0 &+ mix($1)) }
        return result == notFinite ? 0 : result
    }

    static func embed(token: Int32, position: Int) -> UInt64 {
        combine(UInt64(UInt32(bitPattern: token)), UInt64(position))
    }
    static func expert(_ row: UInt64, layer: Int, expert: Int) -> UInt64 { combine(row, UInt64(layer), UInt64(expert)) }
    static func token(_ row: UInt64) -> Int32 { Int32(row % UInt64(vocabulary)) }

    static func route(_ row: UInt64) -> [Int] {
        let first = Int(row % UInt64(experts))
        let second = (first + 1 + Int((row / 7) % UInt64(experts - 1))) % experts
        return [first, second]
    }

    /// The token after each position, computed alone.
    static func reference(_ tokens: [Int32], layers: Int) -> [Int32] {
        var cache = [UInt64](repeating: 0, count: layers)
        return tokens.enumerated().map { position, token in
            var row = embed(token: token, position: position)
            for layer in 0..<layers {
                row = combine(row, cache[layer])
                cache[layer] = row
                let outputs = route(row).map { expert(row, layer: layer, expert: $0) }
                row = combine(row, outputs[0], outputs[1])
            }
            return Toy.token(row)
        }
    }
}

/// What may go wrong in a run.
struct Faults: OptionSet, CustomStringConvertible {
    let rawValue: Int
    static let repeats = Faults(rawValue: 1)
    static let lostSteps = Faults(rawValue: 2)
    static let badRows = Faults(rawValue: 4)
    static let notFinite = Faults(rawValue: 8)
    static let cutLinks = Faults(rawValue: 16)
    static let deaths = Faults(rawValue: 32)

    var description: String { "faults \(rawValue)" }
}

/// Workers without engines or sockets: their machines, a network that delivers in any order between links (in order on each),
/// and a coordinator that keeps several steps of each lane in flight. It checks what it sees as it goes along.
struct MockWorld {
    enum Message {
        case experts(ExpertRequest, correlation: UInt64, rows: [UInt64])
        case results(ExpertReply, correlation: UInt64, rows: [UInt64])
        case hidden(StepBatch, rows: [UInt64])
    }

    /// A connection that `home` dialled to `host`.
    struct Link {
        let home: String
        let host: String
        let id: HomeID
        var out: [Message] = []
        var back: [Message] = []
    }

    final class Node {
        let peer: PeerID
        var machine: WorkerMachine
        var cache: [Int: UInt64] = [:]
        var steps: [StepKey: Rows] = [:]
        var requests: [RequestKey: (request: ExpertRequest, rows: [UInt64], results: [UInt64])] = [:]
        var items = 0

        init(peer: PeerID, machine: consuming WorkerMachine) {
            self.peer = peer
            self.machine = machine
        }
    }

    final class Rows {
        let batch: StepBatch
        let entries: StepEntries
        var values: [UInt64]
        var outputs: [UInt64]
        let places: [(entry: Int, position: Int)]

        init(batch: StepBatch, entries: StepEntries, values: [UInt64]) {
            self.batch = batch
            self.entries = entries
            self.values = values
            outputs = Array(repeating: 0, count: values.count * Toy.used)
            places = entries.enumerated().flatMap { index, entry in
                (0..<entry.count).map { (index, entry.position + $0) }
            }
        }

        func isLast(_ row: Int) -> Bool { row + 1 == places.count || places[row + 1].entry != places[row].entry }
    }

    struct Sequence {
        var tokens: [Int32]
        var reference: [Int32]
        var sent = 0
        var pages: [UInt32] = []
        var pagesTold = 0
        var isIntroduced = false
        /// The first step whose outcome was a failure of this sequence.
        var failedAt: UInt64?
        var isSpoiled = false
    }

    struct Lane {
        let homes: [String]
        var nextStep: UInt64 = 1
        var inFlight: [UInt64: ProtoStep] = [:]
        var needsTables = false
        /// A frame between two homes was lost: steps may never end.
        var isUncertain = false
        var sequences: [UInt64: Sequence] = [:]
        var toRelease: [UInt64] = []
    }

    static let credits = 5
    static let stepsInFlight = 4

    let layers: Int
    let faults: Faults
    var random: SeededGenerator
    var nodes: [String: Node] = [:]
    var links: [Link] = []
    var lanes: [Lane] = []
    var nextHome: UInt64 = 0
    var nextPage: UInt32 = 0
    var problems: [String] = []
    var results = 0
    var failures = 0
    var mergedHomes = 0

    init(seed: UInt64, faults: Faults) throws {
        var random = SeededGenerator(seed: seed)
        self.faults = faults
        let stageCount = Int.random(in: 1...3, using: &random)
        layers = stageCount * Int.random(in: 1...2, using: &random)
        var placement = ProtoPlacement()
        placement.epoch = 7
        var names: [[String]] = []
        for stage in 0..<stageCount {
            var message = ProtoStage()
            message.firstLayer = UInt32(stage * layers / stageCount)
            message.layerCount = UInt32(layers / stageCount)
            let count = Int.random(in: 1...3, using: &random)
            names.append((0..<count).map { "s\(stage)w\($0)" })
            var held = (0..<count).map { _ in Set<UInt32>() }
            for expert in 0..<UInt32(Toy.experts) {
                held[Int.random(in: 0..<count, using: &random)].insert(expert)
                if Bool.random(using: &random) { held[Int.random(in: 0..<count, using: &random)].insert(expert) }
            }
            for index in 0..<count {
                var member = ProtoMember()
                member.name = names[stage][index]
                member.incarnation = 1
                member.dataAddress = "127.0.0.1:1"
                member.experts = held[index].sorted()
                message.members.append(member)
            }
            placement.stages.append(message)
        }
        for lane in 0..<Int.random(in: 1...3, using: &random) {
            let homes = names.map { $0[lane % $0.count] }
            var message = ProtoLane()
            message.workers = homes
            placement.lanes.append(message)
            lanes.append(Lane(homes: homes))
        }
        self.random = random
        for name in names.joined() {
            let peer = PeerID(name: name, incarnation: 1)
            let view = try PlacementView(placement: placement, own: peer, layerCount: layers, expertCount: Toy.experts)
            let bounds = WorkerBounds(
                pages: 100_000, contextLength: 4_096, vocabulary: Toy.vocabulary, expertsUsed: Toy.used, hidden: 1,
                rowCredits: Self.credits)
            let node = Node(peer: peer, machine: WorkerMachine(view: view, bounds: bounds))
            node.machine.layerRows = Int.random(in: 1...6, using: &self.random)
            node.machine.expertRows = Int.random(in: 1...6, using: &self.random)
            node.machine.expertsTogether = Int.random(in: 1...3, using: &self.random)
            nodes[name] = node
        }
        for node in sortedNodes {
            for peer in node.machine.view.outbound.keys.sorted() { connect(node.peer.name, peer.name) }
        }
        for lane in lanes.indices {
            for _ in 0..<4 { addSequence(to: lane) }
        }
    }

    private var sortedNodes: [Node] { nodes.values.sorted { $0.peer < $1.peer } }

    private mutating func addSequence(to lane: Int) {
        let tokens = (0..<Int.random(in: 1...40, using: &random)).map { _ in
            Int32.random(in: 0..<Int32(Toy.vocabulary), using: &random)
        }
        let id = UInt64(lane * 1_000 + lanes[lane].sequences.count)
        lanes[lane].sequences[id] = Sequence(tokens: tokens, reference: Toy.reference(tokens, layers: layers))
    }

    private mutating func connect(_ home: String, _ host: String) {
        guard let from = nodes[home], let to = nodes[host] else { return }
        nextHome += 1
        let id = HomeID(number: nextHome)
        links.append(Link(home: home, host: host, id: id))
        to.machine.homeJoined(id, peer: from.peer)
        from.machine.linkUp(to.peer, credits: Self.credits)
    }

    // MARK: Running

    /// Runs until everything that was sent has ended; returns false if it does not come to rest.
    mutating func run() -> Bool {
        for _ in 0..<200_000 {
            if !turn() { return true }
        }
        return false
    }

    private mutating func turn() -> Bool {
        enum Choice {
            case send(Int)
            case compute(String)
            case deliver(Int, back: Bool)
        }
        var choices: [Choice] = []
        for (index, lane) in lanes.enumerated() where canSend(lane) { choices.append(.send(index)) }
        for node in sortedNodes where node.machine.hasItem { choices.append(.compute(node.peer.name)) }
        for (index, link) in links.enumerated() {
            if !link.out.isEmpty { choices.append(.deliver(index, back: false)) }
            if !link.back.isEmpty { choices.append(.deliver(index, back: true)) }
        }
        guard let choice = choices.randomElement(using: &random) else { return false }
        switch choice {
        case .send(let lane): sendStep(lane)
        case .compute(let name): if let node = nodes[name] { compute(node) }
        case .deliver(let index, let back): deliver(index, back: back)
        }
        if faults.contains(.cutLinks), Int.random(in: 0..<400, using: &random) == 0 { cut() }
        if faults.contains(.deaths), Int.random(in: 0..<800, using: &random) == 0 { kill() }
        for link in links {
            let rows = nodes[link.host]?.machine.rowsInFlight(from: link.id) ?? 0
            if rows < 0 || rows > Self.credits { problems.append("\(rows) rows from \(link.home) at \(link.host)") }
        }
        return true
    }

    // MARK: Coordinator

    private func canSend(_ lane: Lane) -> Bool {
        guard lane.homes.allSatisfy({ nodes[$0] != nil }), lane.inFlight.count < Self.stepsInFlight else {
            return false
        }
        if lane.needsTables, !lane.inFlight.isEmpty { return false }
        return lane.sequences.values.contains { $0.failedAt == nil && $0.sent < $0.tokens.count }
    }

    private mutating func sendStep(_ index: Int) {
        var lane = lanes[index]
        var step = ProtoStep()
        step.stepID = lane.nextStep
        step.lane = UInt32(index)
        step.class = Bool.random(using: &random) ? .decode : .prefill
        step.tableSequence = lane.nextStep
        step.wholeTables = lane.needsTables
        lane.nextStep += 1
        step.released = lane.toRelease
        lane.toRelease = []
        if lane.needsTables {
            for id in lane.sequences.keys {
                lane.sequences[id]?.isIntroduced = false
                lane.sequences[id]?.pagesTold = 0
            }
            lane.needsTables = false
        }
        let open = lane.sequences.filter { $0.value.failedAt == nil && $0.value.sent < $0.value.tokens.count }.keys
            .sorted()
        for id in open.shuffled(using: &random).prefix(Int.random(in: 1...3, using: &random)).sorted() {
            guard var sequence = lane.sequences[id] else { continue }
            let count = min(Int.random(in: 1...9, using: &random), sequence.tokens.count - sequence.sent)
            var rows = ProtoSequenceRows()
            rows.sequence = id
            rows.position = UInt32(sequence.sent)
            if lane.homes.count == 1, sequence.sent > 0, Int.random(in: 0..<3, using: &random) == 0 {
                sequence.tokens[sequence.sent] = sequence.reference[sequence.sent - 1]
                sequence.reference = Toy.reference(sequence.tokens, layers: layers)
                rows.tokens = [ProtoSequenceRows.sampledToken]
            } else {
                rows.tokens = Array(sequence.tokens[sequence.sent..<sequence.sent + count])
            }
            sequence.sent += rows.tokens.count
            while sequence.pages.count * WorkerBounds.tokensPerPage < sequence.sent {
                sequence.pages.append(nextPage)
                nextPage += 1
            }
            rows.pages = Array(sequence.pages[sequence.pagesTold...])
            sequence.pagesTold = sequence.pages.count
            rows.sample = true
            if !sequence.isIntroduced {
                rows.sampling.topP = 1
                sequence.isIntroduced = true
            }
            if faults.contains(.badRows), Int.random(in: 0..<20, using: &random) == 0 {
                rows.tokens[0] = Int32(Toy.vocabulary)
                sequence.isSpoiled = true
            }
            step.rows.append(rows)
            lane.sequences[id] = sequence
        }
        lane.inFlight[step.stepID] = step
        lanes[index] = lane
        guard let home = nodes[lane.homes[0]] else { return }
        if faults.contains(.lostSteps), Int.random(in: 0..<15, using: &random) == 0 {
            // As if it had never been sent: the next one shows the gap.
            end(index, step.stepID, failed: Set(step.rows.map(\.sequence)))
            return
        }
        perform(home.machine.stepReceived(step), at: home)
        if faults.contains(.repeats), Bool.random(using: &random) {
            perform(home.machine.stepReceived(step), at: home)
        }
    }

    private mutating func stepResult(_ result: ProtoStepResult) {
        let index = Int(result.lane)
        guard let step = lanes[index].inFlight[result.stepID] else {
            problems.append("result of step \(result.stepID), which is not in flight")
            return
        }
        results += 1
        let failed = Set(result.failures.map(\.sequence))
        failures += failed.count
        for rows in step.rows {
            guard let sequence = lanes[index].sequences[rows.sequence] else { continue }
            let token = result.tokens.first { $0.sequence == rows.sequence }?.token
            if failed.contains(rows.sequence) {
                if token != nil { problems.append("a token of a sequence that failed") }
                if faults.isEmpty { problems.append("sequence \(rows.sequence) failed without a fault") }
                continue
            }
            let due = sequence.reference[Int(rows.position) + rows.tokens.count - 1]
            if token != due { problems.append("step \(result.stepID): token \(token ?? -1) where \(due) is due") }
            if let at = sequence.failedAt, at < result.stepID { problems.append("a token after a failure") }
        }
        if !Set(result.tokens.map(\.sequence)).isSubset(of: step.rows.map(\.sequence)) {
            problems.append("a token of a sequence that was not in the step")
        }
        end(index, result.stepID, failed: failed)
    }

    private mutating func stepFailed(_ failed: ProtoStepFailed, at name: String) {
        let index = Int(failed.lane)
        guard let step = lanes[index].inFlight[failed.stepID] else {
            problems.append("\(name): step \(failed.stepID), not in flight, failed: \(failed.failure.code)")
            return
        }
        failures += 1
        if faults.isDisjoint(with: [.lostSteps, .cutLinks, .deaths]) {
            problems.append("step failed without a fault: \(failed.failure.code)")
        }
        lanes[index].needsTables = true
        end(index, failed.stepID, failed: Set(step.rows.map(\.sequence)))
    }

    private mutating func end(_ lane: Int, _ step: UInt64, failed: Set<UInt64>) {
        lanes[lane].inFlight[step] = nil
        for id in failed {
            guard let at = lanes[lane].sequences[id]?.failedAt else {
                lanes[lane].sequences[id]?.failedAt = step
                lanes[lane].toRelease.append(id)
                continue
            }
            lanes[lane].sequences[id]?.failedAt = min(at, step)
        }
    }

    // MARK: Workers

    /// - Returns: outputs of own steps that are not finite.
    private mutating func compute(_ work: ExpertWork, at node: Node) -> [StepKey: [Int]] {
        mergedHomes = max(mergedHomes, node.machine.workers(in: work))
        var notFinite: [StepKey: [Int]] = [:]
        for piece in work.pieces {
            for output in piece.outputs {
                switch piece.source {
                case .own(let key):
                    guard let rows = node.steps[key] else {
                        problems.append("rows of a step that is gone")
                        continue
                    }
                    let value = Toy.expert(rows.values[output / Toy.used], layer: work.layer, expert: work.expert)
                    rows.outputs[output] = value
                    if value == Toy.notFinite { notFinite[key, default: []].append(output) }
                case .remote(let key):
                    guard let request = node.requests[key] else {
                        problems.append("rows that are gone")
                        continue
                    }
                    let row = request.rows[Int(request.request.assignments[output].row)]
                    node.requests[key]?.results[output] = Toy.expert(row, layer: work.layer, expert: work.expert)
                }
            }
        }
        return notFinite
    }

    private mutating func compute(_ node: Node) {
        guard let item = node.machine.nextItem() else {
            problems.append("hasItem without an item")
            return
        }
        node.items += 1
        switch item {
        case .layer(let work):
            guard let rows = node.steps[work.step] else { return problems.append("work for a step that is gone") }
            let isFirst = work.layer == node.machine.view.layers.lowerBound
            if !isFirst { combine(rows, work.rows) }
            for row in work.rows {
                let (entry, position) = rows.places[row]
                let pages = rows.entries.pages[rows.entries[entry].pages]
                let before = position > 0 ? node.cache[slot(work.layer, pages, position - 1)] ?? 1 : 0
                rows.values[row] = Toy.combine(rows.values[row], before)
                node.cache[slot(work.layer, pages, position)] = rows.values[row]
            }
            var routes = RowRoutes()
            let view = node.machine.view
            let isEnd = view.isLastStage && work.layer == view.layers.upperBound - 1
            for row in work.rows {
                // As in the engine, nothing but a sequence's last row goes through the last layer's experts.
                let ends = isEnd && !rows.isLast(row)
                routes.append(
                    experts: ends ? [-1, -1] : Toy.route(rows.values[row]).map(Int32.init), weights: [0.5, 0.5])
            }
            perform(node.machine.layerFinished(work, routes: routes), at: node)
        case .expert(let first):
            let works = [first] + node.machine.companions(of: first)
            if works.reduce(0, { $0 + $1.rowCount }) > node.machine.expertRows {
                problems.append("an item of \(works.map(\.rowCount)) rows")
            }
            let notFinite = works.map { compute($0, at: node) }
            for (work, notFinite) in zip(works, notFinite) {
                perform(node.machine.expertFinished(work, notFinite: notFinite), at: node)
            }
        case .output(let work):
            guard let rows = node.steps[work.step] else { return problems.append("work for a step that is gone") }
            combine(rows, work.rows)
            var result = OutputResult()
            var end = 0
            for entry in rows.entries where node.machine.view.isLastStage {
                end += entry.count
                guard entry.count > 0, work.rows.contains(end - 1) else { continue }
                var token = ProtoSampledToken()
                token.sequence = entry.sequence
                token.token = Toy.token(rows.values[end - 1])
                result.tokens.append(token)
            }
            perform(node.machine.outputFinished(work, result: result), at: node)
        }
    }

    private func slot(_ layer: Int, _ pages: ArraySlice<Int32>, _ position: Int) -> Int {
        let (page, place) = position.quotientAndRemainder(dividingBy: WorkerBounds.tokensPerPage)
        return (layer << 32 + Int(pages[pages.startIndex + page])) * WorkerBounds.tokensPerPage + place
    }

    private func combine(_ rows: Rows, _ range: Range<Int>) {
        for row in range {
            rows.values[row] = Toy.combine(
                rows.values[row], rows.outputs[row * Toy.used], rows.outputs[row * Toy.used + 1])
        }
    }

    private mutating func deliver(_ index: Int, back: Bool) {
        let message = back ? links[index].back.removeFirst() : links[index].out.removeFirst()
        let link = links[index]
        switch message {
        case .experts(let request, let correlation, let rows):
            guard let host = nodes[link.host] else { return }
            for _ in 0..<(faults.contains(.repeats) && Bool.random(using: &random) ? 2 : 1) {
                perform(
                    host.machine.expertsReceived(request, correlation: correlation, format: .f32, from: link.id),
                    at: host, request: request, rows: rows)
            }
        case .hidden(let step, var rows):
            guard let home = nodes[link.host] else { return }
            spoil(&rows)
            let bad = rows.indices.filter { rows[$0] == Toy.notFinite }
            perform(home.machine.hiddenReceived(step, notFinite: bad, from: link.id), at: home, rows: rows)
        case .results(let reply, let correlation, var rows):
            guard let home = nodes[link.home], let host = nodes[link.host] else { return }
            spoil(&rows)
            let bad = rows.indices.filter { rows[$0] == Toy.notFinite }
            for _ in 0..<(faults.contains(.repeats) && Bool.random(using: &random) ? 2 : 1) {
                perform(
                    home.machine.resultsReceived(reply, correlation: correlation, notFinite: bad, from: host.peer),
                    at: home, rows: rows)
            }
        }
    }

    private mutating func spoil(_ rows: inout [UInt64]) {
        guard faults.contains(.notFinite), Int.random(in: 0..<30, using: &random) == 0 else { return }
        if let row = rows.indices.randomElement(using: &random) { rows[row] = Toy.notFinite }
    }

    private mutating func perform(
        _ actions: [WorkerAction], at node: Node, request: ExpertRequest? = nil, rows: [UInt64] = []
    ) {
        for action in actions {
            switch action {
            case .beginStep(let key, let batch, let entries, _):
                if node.steps[key] != nil { problems.append("step \(key) begins twice") }
                let values: [UInt64] = entries.flatMap { entry in
                    var tokens: [Int32] = []
                    entries.appendTokens(of: entry, in: batch, to: &tokens)
                    return (0..<entry.count).map { offset in
                        node.machine.view.isFirstStage
                            ? Toy.embed(token: tokens[offset], position: entry.position + offset)
                            : rows[entry.frameRow + offset]
                    }
                }
                node.steps[key] = Rows(batch: batch, entries: entries, values: values)
            case .setToken(let key, let row, let token):
                guard let step = node.steps[key] else { return problems.append("a token for a step that is gone") }
                step.values[row] = Toy.embed(token: token, position: step.places[row].position)
            case .sendExperts(let send):
                guard let step = node.steps[send.step] else {
                    return problems.append("sends rows of a step that is gone")
                }
                let assignments = zip(send.outputs, send.experts).enumerated().map { index, pair in
                    ExpertRequest.Assignment(expert: UInt16(pair.1), row: UInt16(index))
                }
                let message = ExpertRequest(
                    step: send.step.step, lane: UInt32(send.step.lane), layer: UInt32(send.layer),
                    isPrefill: send.workClass == .prefill, format: .f32, rowCount: send.outputs.count, columns: 1,
                    assignments: assignments, rows: ByteBuffer())
                let values = send.outputs.map { step.values[$0 / Toy.used] }
                post(.experts(message, correlation: send.correlation, rows: values), from: node, to: send.peer)
            case .storeResults(let key, let outputs):
                for (index, output) in outputs.enumerated() { node.steps[key]?.outputs[output] = rows[index] }
            case .sendHidden(let key, let peer, let batch, let sent):
                guard let step = node.steps[key] else { return problems.append("sends a step that is gone") }
                if batch.rowCount != sent.count {
                    problems.append("\(sent.count) rows for \(batch.rowCount) tokens")
                }
                post(.hidden(batch, rows: sent.map { step.values[$0] }), from: node, to: peer)
            case .sendStepResult(let result):
                stepResult(result)
            case .sendStepFailed(let failed):
                stepFailed(failed, at: node.peer.name)
            case .endStep(let key):
                if node.steps.removeValue(forKey: key) == nil { problems.append("step \(key) ends twice") }
            case .beginRequest(let key):
                guard let request else { return problems.append("no request") }
                node.requests[key] = (request, rows, Array(repeating: 0, count: request.assignments.count))
            case .sendResults(let key):
                guard let request = node.requests[key], let index = links.firstIndex(where: { $0.id == key.home })
                else { return problems.append("results for a home that is gone") }
                let head = request.request
                let reply = ExpertReply(
                    step: head.step, lane: head.lane, layer: head.layer, rowCount: request.results.count, columns: 1)
                links[index].back.append(.results(reply, correlation: key.correlation, rows: request.results))
            case .endRequest(let key):
                node.requests[key] = nil
            case .refuseRequest, .closeHome, .closeLink:
                problems.append("unexpected \(action)")
            }
        }
    }

    private mutating func post(_ message: Message, from node: Node, to peer: PeerID) {
        guard let index = links.firstIndex(where: { $0.home == node.peer.name && $0.host == peer.name }) else {
            problems.append("\(node.peer) sends to \(peer), which it is not connected to")
            return
        }
        links[index].out.append(message)
    }

    // MARK: Faults

    private static let lost = Failure(code: "peer_lost", message: "lost")

    /// A connection breaks, and stands again at once.
    private mutating func cut() {
        guard let index = links.indices.randomElement(using: &random) else { return }
        let link = links.remove(at: index)
        if let host = nodes[link.host] { perform(host.machine.homeLost(link.id), at: host) }
        if let home = nodes[link.home], let host = nodes[link.host] {
            perform(home.machine.linkLost(host.peer, Self.lost), at: home)
        }
        connect(link.home, link.host)
        // A hidden frame may have been on its way: nobody will hear of that step again, as after a home's death.
        forgetStepsAfter(link.host)
    }

    /// A worker dies, unless it is the last one.
    private mutating func kill() {
        guard nodes.count > 1, let node = sortedNodes.randomElement(using: &random) else { return }
        nodes[node.peer.name] = nil
        let gone = links.filter { $0.home == node.peer.name || $0.host == node.peer.name }
        links.removeAll { $0.home == node.peer.name || $0.host == node.peer.name }
        for link in gone {
            if let host = nodes[link.host] { perform(host.machine.homeLost(link.id), at: host) }
            if let home = nodes[link.home] { perform(home.machine.linkLost(node.peer, Self.lost), at: home) }
        }
    }

    /// The coordinator gives up the steps of lanes that come through `host`, as it would by its own deadline; results that
    /// come nevertheless are right all the same.
    private mutating func forgetStepsAfter(_ host: String) {
        for index in lanes.indices where lanes[index].homes.dropFirst().contains(host) {
            lanes[index].isUncertain = true
        }
    }

    /// What must hold when nothing moves any more.
    mutating func checkAtRest() {
        for node in sortedNodes {
            if !node.machine.isIdle { problems.append("\(node.peer) is not idle") }
            for peer in node.machine.view.outbound.keys where node.machine.rowsInFlight(at: peer) != 0 {
                problems.append("\(node.peer) has rows in flight at \(peer)")
            }
            if !node.steps.isEmpty || !node.requests.isEmpty { problems.append("\(node.peer) keeps rows") }
        }
        for link in links where nodes[link.host]?.machine.rowsInFlight(from: link.id) != 0 {
            problems.append("\(link.host) has rows of \(link.home) in flight")
        }
        for (index, lane) in lanes.enumerated() {
            guard lane.homes.allSatisfy({ nodes[$0] != nil }), !lane.isUncertain else { continue }
            if !lane.inFlight.isEmpty {
                problems.append("lane \(index): steps \(lane.inFlight.keys.sorted()) never ended")
            }
            for (id, sequence) in lane.sequences where sequence.failedAt == nil && sequence.sent < sequence.tokens.count
            {
                problems.append("sequence \(id) was not finished")
            }
        }
    }
}
