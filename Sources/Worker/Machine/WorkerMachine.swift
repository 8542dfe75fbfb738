package import Wire

/// Which of the waiting work goes first.
package enum WorkClass: Int, Sendable, CaseIterable {
    case decode = 0
    case prefill = 1
}

/// A step, within an epoch.
package struct StepKey: Hashable, Sendable {
    package let lane: Int
    package let step: UInt64

    package init(lane: Int, step: UInt64) {
        self.lane = lane
        self.step = step
    }
}

/// A home's connection to this host. Numbered by the shell; never used again.
package struct HomeID: Hashable, Sendable {
    package let number: UInt64

    package init(number: UInt64) { self.number = number }
}

/// Rows that a home asked this host to compute.
package struct RequestKey: Hashable, Sendable {
    package let home: HomeID
    package let correlation: UInt64

    package init(home: HomeID, correlation: UInt64) {
        self.home = home
        self.correlation = correlation
    }
}

/// The experts that the router chose for some rows, as many for each, best first.
package struct RowRoutes: Equatable, Sendable {
    /// Row r's c-th expert stands at `r * expertsUsed + c`, and so does its weight; -1 for a row that goes to none.
    package private(set) var experts: [Int32] = []
    package private(set) var weights: [Float] = []

    package init() {}

    package mutating func append(experts: some Sequence<Int32>, weights: some Sequence<Float>) {
        self.experts.append(contentsOf: experts)
        self.weights.append(contentsOf: weights)
    }

    mutating func removeAll() {
        experts.removeAll(keepingCapacity: true)
        weights.removeAll(keepingCapacity: true)
    }
}

/// One unit of computation. The shell runs it to its end before it reads the sockets again.
package enum WorkItem: Equatable {
    case layer(LayerWork)
    case expert(ExpertWork)
    case output(OutputWork)
}

/// For rows of a step: add up the experts' outputs of the layer before (unless it is the stage's first), attention, router.
package struct LayerWork: Equatable {
    package let step: StepKey
    package let layer: Int
    package let rows: Range<Int>
}

/// One expert's product over rows of several steps and homes.
package struct ExpertWork: Equatable {
    /// Some outputs of one source. Output `o` of a step is row `o / expertsUsed`, chosen expert `o % expertsUsed`; output `o`
    /// of a request is its assignment `o`.
    package struct Piece: Equatable {
        package enum Source: Hashable {
            case own(StepKey)
            case remote(RequestKey)
        }

        package let source: Source
        package var outputs: ArraySlice<Int>

        var isRemote: Bool { if case .remote = source { true } else { false } }
    }

    /// Pieces in order. Two, which are most often all (own rows and a neighbour's), are no array.
    package struct Pieces: Equatable, RandomAccessCollection {
        private var first: Piece?
        private var second: Piece?
        private var others: [Piece] = []

        package init() {}

        init(_ piece: Piece) {
            first = piece
        }

        init(_ pieces: some Sequence<Piece>) {
            for piece in pieces { append(piece) }
        }

        package var startIndex: Int { 0 }
        package var endIndex: Int { first == nil ? 0 : second == nil ? 1 : 2 + others.count }

        package subscript(_ index: Int) -> Piece {
            if index == 0, let first { return first }
            if index == 1, let second { return second }
            return others[index - 2]
        }

        mutating func append(_ piece: Piece) {
            if first == nil {
                first = piece
            } else if second == nil {
                second = piece
            } else {
                others.append(piece)
            }
        }
    }

    package let layer: Int
    package let expert: Int
    package let workClass: WorkClass
    package let pieces: Pieces

    package var rowCount: Int { pieces.rowCount }
}

extension ExpertWork.Pieces {
    /// Whether a peer waits for some of the rows.
    var isRemote: Bool { contains { $0.isRemote } }
    var rowCount: Int { reduce(0) { $0 + $1.outputs.count } }
}

/// For rows of a step: add up the last layer's experts' outputs and, at the lane's end, apply the head and sample or score.
package struct OutputWork: Equatable {
    package let step: StepKey
    package let rows: Range<Int>
}

/// What the last home read from some rows' logits.
package struct OutputResult: Equatable {
    package var tokens: [ProtoSampledToken] = []
    /// Top tokens and likelihoods of rows in order; rows of one sequence may come in several parts.
    package var scores: [ProtoScoredRows] = []
    package var failures: [ProtoSequenceFailure] = []

    package init() {}

    mutating func removeAll() {
        tokens.removeAll(keepingCapacity: true)
        scores.removeAll(keepingCapacity: true)
        failures.removeAll(keepingCapacity: true)
    }

    /// Adds scores to those of earlier rows of the same sequence.
    package mutating func add(_ part: ProtoScoredRows) {
        guard let index = scores.firstIndex(where: { $0.sequence == part.sequence }) else {
            scores.append(part)
            return
        }
        scores[index].top += part.top
        scores[index].nll += part.nll
        scores[index].lastLogits += part.lastLogits
    }
}

/// What the shell has to do, in order.
package enum WorkerAction: Equatable {
    /// Rows of a step that this worker computes: reserve what it needs. Items are `chunk` rows each, the last one fewer.
    case beginStep(StepKey, batch: StepBatch, entries: StepEntries, chunk: Int)
    /// A token of a step that came before it was known.
    case setToken(StepKey, row: Int, token: Int32)
    case sendExperts(ExpertSend)
    /// The reply that was just received: its rows become these outputs of the step.
    case storeResults(StepKey, outputs: ArraySlice<Int>)
    /// `rows` of the step, which are those of the message.
    case sendHidden(StepKey, to: PeerID, batch: StepBatch, rows: [Int])
    case sendStepResult(ProtoStepResult)
    case sendStepFailed(ProtoStepFailed)
    /// Nothing will ask for the step's rows again.
    case endStep(StepKey)
    /// The request that was just received waits for its turn: keep its rows.
    case beginRequest(RequestKey)
    case sendResults(RequestKey)
    case refuseRequest(RequestKey, ExpertReply.Status)
    case endRequest(RequestKey)
    /// The peer broke the protocol on the connection it dialled.
    case closeHome(HomeID, Failure)
    /// The peer broke the protocol on the connection that this worker dialled.
    case closeLink(PeerID, Failure)
}

/// Rows of a step for a host.
package struct ExpertSend: Equatable {
    package let peer: PeerID
    package let correlation: UInt64
    package let step: StepKey
    package let layer: Int
    package let workClass: WorkClass
    /// Outputs of the step in the order of the frame's assignments, and the expert of each.
    package let outputs: ArraySlice<Int>
    package let experts: ArraySlice<Int>
}

/// The bookkeeping of a worker's data plane for one epoch, without tensors, sockets or clock.
///
/// Events go in, actions are appended to an array, and ``nextItem()`` says what to compute next. A step is accepted once, goes
/// through the layers of the stage (attention for its rows; rows to expert hosts; outputs added when all are there) and ends once:
/// with its hidden state sent on, with a result, or with a failure. Steps of one lane leave in the order in which they came,
/// since the page tables of the next home change in that order; which of them is computed first is free, except that
/// rows of a sequence wait until the sequence's earlier rows have written their keys and values, and a step that was
/// planned ahead until the tokens are sampled that it begins with.
///
/// What a step or a request needs is an object that is used again for a later one, so that a step of a decode that goes on as before
/// allocates nothing. Slices of its arrays are handed out; whoever holds one for longer than that causes a copy and no harm.
package struct WorkerMachine: ~Copyable {
    package let view: PlacementView
    package let bounds: WorkerBounds
    /// Most rows in an item, from measured cost, so that an item lasts about 5 ms. `layerRows` holds for new steps.
    package var layerRows = 32
    package var expertRows = 64
    /// Experts of a layer that are computed in one go: several where each is small.
    package var expertsTogether = 1

    var lanes: [Int: LaneState] = [:]
    var steps: [StepKey: StepState] = [:]
    var links: [PeerID: LinkState] = [:]
    var outstanding: [UInt64: Outstanding] = [:]
    var homes: [HomeID: HomeState] = [:]
    var requests: [RequestKey: RequestState] = [:]
    var queues: [QueueKey: ExpertQueue] = [:]
    /// Of steps and requests that are over.
    var spareSteps = Spares<StepState>()
    var spareRequests = Spares<RequestState>()
    var nextCorrelation: UInt64 = 1
    /// Items handed out: the clock of ageing.
    var itemsStarted: UInt64 = 0
    /// Numbers waiting work, so that the choice among equals does not depend on a dictionary's order.
    var nextTicket: UInt64 = 0

    package init(view: PlacementView, bounds: WorkerBounds) {
        self.view = view
        self.bounds = bounds
    }

    final class LaneState {
        var tables = LaneTables()
        /// Steps in the order in which they came, while they are here.
        var order: [StepKey] = []
    }

    final class StepState {
        enum Phase: Equatable {
            /// Rows before `nextRow` have been through the layer's attention.
            case layer(nextRow: Int)
            /// The layer's rows are with the experts.
            case experts(missing: Int)
            /// Rows before `nextRow` have their output.
            case output(nextRow: Int)
            /// Computed; waits until the lane's earlier steps have left.
            case done
        }

        var key = StepKey(lane: 0, step: 0)
        var workClass = WorkClass.decode
        var role = PlacementView.LaneRole(previous: nil, next: nil)
        var batch = StepBatch()
        var rows = StepEntries()
        var rowCount = 0
        /// Rows in a layer's or output's item, the same for the step's whole life.
        var chunk = 1
        /// Steps whose rows of the same sequences come before these.
        var elders: [StepKey] = []
        var layer = 0
        var phase = Phase.done
        /// Rows whose token an elder is yet to be sampled to.
        var awaited: [AwaitedRow: Int] = [:]
        /// Of the rows of the layer at hand that have been through its attention, where those are several items.
        var routes = RowRoutes()
        /// The layer's outputs by expert, and those that other hosts compute by host, with the expert of each.
        var sorting = SortedOutputs()
        var remoteOutputs: [Int] = []
        var remoteExperts: [Int] = []
        /// By host: where its outputs end.
        var remoteEnds: [Int] = []
        /// When the item that is next became possible.
        var since: UInt64 = 0
        var ticket: UInt64 = 0
        var result = OutputResult()
        /// Rows that go on to the next stage.
        var sentRows: [Int] = []
    }

    struct AwaitedRow: Hashable {
        let sequence: UInt64
        let position: Int
    }

    final class LinkState {
        /// (row, expert) pairs that the host takes at once.
        let credits: Int
        var inFlight = 0
        var waitingDecode: [WaitingRows] = []
        var waitingPrefill: [WaitingRows] = []
        /// Decode sends in a row while prefill rows waited.
        var decodeStreak = 0

        init(credits: Int) { self.credits = credits }
    }

    struct WaitingRows {
        let step: StepKey
        let layer: Int
        var outputs: ArraySlice<Int>
        var experts: ArraySlice<Int>
    }

    struct Outstanding {
        let peer: PeerID
        let step: StepKey
        let layer: Int
        let outputs: ArraySlice<Int>
    }

    final class HomeState {
        let peer: PeerID
        var inFlight = 0

        init(peer: PeerID) { self.peer = peer }
    }

    final class RequestState {
        var count = 0
        var missing = 0
        var sorting = SortedOutputs()
    }

    struct QueueKey: Hashable {
        let workClass: WorkClass
        let layer: Int
        let expert: Int
    }

    struct ExpertQueue {
        var pieces: ExpertWork.Pieces
        var since: UInt64
        var ticket: UInt64
    }

    // MARK: What tests and heartbeats read

    package var isIdle: Bool { steps.isEmpty && requests.isEmpty && queues.isEmpty && outstanding.isEmpty }
    /// Items that could be computed now or later: for the heartbeat.
    package var queuedItems: Int { queues.count + steps.count }

    /// (row, expert) pairs that this home has under way at a host.
    package func rowsInFlight(at peer: PeerID) -> Int { links[peer]?.inFlight ?? 0 }
    /// (row, expert) pairs that a home has under way here.
    package func rowsInFlight(from home: HomeID) -> Int { homes[home]?.inFlight ?? 0 }

    mutating func ticket() -> UInt64 {
        nextTicket += 1
        return nextTicket
    }
}
