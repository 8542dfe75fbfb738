import Glibc

/// When each request of a load is sent: a value that takes what happened and the time, in nanoseconds.
struct LoadSchedule {
    struct Plan: Equatable, Sendable {
        /// Requests a second, arriving as a Poisson process does whatever becomes of those before: an open loop. Nil: at once, or as
        /// `concurrency` lets them.
        var rate: Double?
        /// Most requests under way; with it and no rate each of so many clients sends its next request when it has its answer: a closed
        /// loop.
        var concurrency: Int?
        var requests: Int?
        /// Nothing is sent from here on.
        var durationNanoseconds: UInt64?
        var seed: UInt64 = 0
    }

    private let plan: Plan
    private let begin: UInt64
    private var random: SeededRandom
    /// When the next request is due.
    private var due: UInt64
    private(set) var sent = 0
    private(set) var underWay = 0
    private var isStopped = false

    init(_ plan: Plan, begin: UInt64) {
        self.plan = plan
        self.begin = begin
        random = SeededRandom(seed: plan.seed)
        due = begin
        due = nextArrival
    }

    private var nextArrival: UInt64 {
        mutating get {
            guard let rate = plan.rate else { return due }
            // The distance of two arrivals: exponential. 1 − u is above 0.
            let seconds = -log(1 - random.unit()) / rate
            return due.addingReportingOverflow(UInt64(min(seconds * 1e9, 1e18))).partialValue
        }
    }

    private var isExhausted: Bool {
        if isStopped || sent >= plan.requests ?? .max { return true }
        guard let duration = plan.durationNanoseconds else { return false }
        return due >= begin &+ duration
    }

    private var hasRoom: Bool { underWay < plan.concurrency ?? .max }

    /// Nothing is left to be sent, and nothing is under way.
    var isOver: Bool { isExhausted && underWay == 0 }

    /// The requests to send now.
    /// - Returns: when each was due. What waits for room among `concurrency` is due when it has it.
    mutating func start(at now: UInt64) -> [UInt64] {
        var times: [UInt64] = []
        while hasRoom {
            // Without a rate a request is due whenever there is room, and the duration ends by the clock.
            if plan.rate == nil { due = max(due, now) }
            guard !isExhausted, due <= now else { break }
            times.append(plan.concurrency == nil ? due : now)
            sent += 1
            underWay += 1
            due = nextArrival
        }
        return times
    }

    /// When ``start(at:)`` has something to do, unless a request ends before; nil where only that matters.
    var wakeAt: UInt64? { isExhausted || !hasRoom ? nil : due }

    mutating func ended() { underWay -= 1 }

    /// Nothing more is sent.
    mutating func stop() { isStopped = true }
}

/// SplitMix64 (Steele, Lea, Flood 2014): random numbers that a seed repeats.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// From 0 up to and without 1.
    mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}

/// The prompts of a load, as tokens, from a seed.
struct LoadPrompts: Sendable {
    /// Below it are control and byte pieces of the tokenizers that are used.
    static let firstToken = 300

    let tokens: Int
    /// The first so many are the same in all prompts.
    let sharedTokens: Int
    /// Ids are below it.
    let vocabulary: Int
    let seed: UInt64
    private let shared: [Int32]

    init(tokens: Int, sharedTokens: Int, vocabulary: Int, seed: UInt64) {
        self.tokens = tokens
        self.sharedTokens = sharedTokens
        self.vocabulary = vocabulary
        self.seed = seed
        var random = SeededRandom(seed: seed)
        shared = Self.draw(sharedTokens, below: vocabulary, &random)
    }

    func prompt(_ index: Int) -> [Int32] {
        // Seeds one apart give streams that are shifted against each other; multiplied, they are not.
        var random = SeededRandom(seed: seed ^ (UInt64(index + 1) &* 0xD134_2543_DE82_EF95))
        return shared + Self.draw(tokens - sharedTokens, below: vocabulary, &random)
    }

    private static func draw(_ count: Int, below vocabulary: Int, _ random: inout SeededRandom) -> [Int32] {
        (0..<count).map { _ in Int32.random(in: Int32(firstToken)..<Int32(vocabulary), using: &random) }
    }
}
