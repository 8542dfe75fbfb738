import Wire

/// What a model makes of a given sequence.
public struct Score: Sendable, Hashable {
    /// A token and its logit.
    public struct Candidate: Sendable, Hashable {
        public let token: Int32
        public let logit: Float
    }

    /// The experts that a layer's router chose, best first, and their weights.
    public struct Route: Sendable, Hashable {
        public let experts: [Int]
        public let weights: [Float]
    }

    public let ids: [Int32]
    /// For each position, the best candidates for the token after it.
    public let top: [[Candidate]]
    /// A logit for each token of the vocabulary, at the last position.
    public let lastLogits: [Float]
    /// Mean negative log-likelihood, in nats, of the ids given those before them, from the second on.
    public let meanNegativeLogLikelihood: Double
    /// A route for each layer, at the last position.
    public let lastRoutes: [Route]

    init(_ message: ProtoScoreResponse) {
        ids = message.ids
        top = message.top.map { position in
            position.tokens.map { Candidate(token: $0.token, logit: $0.logit) }
        }
        lastLogits = message.lastLogits
        meanNegativeLogLikelihood = message.meanNll
        lastRoutes = message.routesLast.map { Route(experts: $0.experts.map(Int.init), weights: $0.weights) }
    }
}

/// What a cluster consists of and does.
public struct ClusterStatus: Sendable, Hashable {
    public struct Worker: Sendable, Hashable {
        public let name: String
        /// "joining", "loading", "ready" or "lost".
        public let state: String
        public let dataAddress: String
        public let stage: Int
        public let layers: Range<Int>
        /// Experts it holds of these layers.
        public let experts: [Int]
        public let weightBytes: UInt64
        public let threads: Int
        /// KV pages of 32 tokens.
        public let pagesTotal: Int
        public let pagesUsed: Int
    }

    public struct Lane: Sendable, Hashable {
        /// One worker out of every stage, first stage to last.
        public let workers: [String]
        public let sequences: Int
        /// "open", or "closed" while one of its workers is lost.
        public let state: String
    }

    public let coordinator: String
    public let version: String
    public let model: String
    public let contextLength: Int
    /// Whether requests are served.
    public let isReady: Bool
    /// Counts the changes of the placement.
    public let epoch: UInt64
    public let workers: [Worker]
    public let lanes: [Lane]
    public let requestsRunning: Int
    public let requestsWaiting: Int
    public let requestsFinished: UInt64
    public let requestsFailed: UInt64
    public let requestsCancelled: UInt64

    init(_ message: ProtoStatusResponse) {
        coordinator = message.coordinator
        version = message.version
        model = message.model
        contextLength = Int(message.contextLength)
        isReady = message.ready
        epoch = message.epoch
        workers = message.workers.map(Worker.init)
        lanes = message.lanes.map(Lane.init)
        requestsRunning = Int(message.requests.running)
        requestsWaiting = Int(message.requests.waiting)
        requestsFinished = message.requests.finished
        requestsFailed = message.requests.failed
        requestsCancelled = message.requests.cancelled
    }
}

extension ClusterStatus.Worker {
    init(_ message: ProtoWorkerStatus) {
        name = message.name
        state = message.state
        dataAddress = message.dataAddress
        stage = Int(message.stage)
        // Two 32-bit numbers cannot overflow as 64-bit ones.
        layers = Int(message.firstLayer)..<Int(message.firstLayer) + Int(message.layerCount)
        experts = message.experts.map(Int.init)
        weightBytes = message.weightBytes
        threads = Int(message.threads)
        pagesTotal = Int(message.pagesTotal)
        pagesUsed = Int(message.pagesUsed)
    }
}

extension ClusterStatus.Lane {
    init(_ message: ProtoLaneStatus) {
        workers = message.workers
        sequences = Int(message.sequences)
        state = message.state
    }
}
