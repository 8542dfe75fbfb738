import HeapModule

/// Requests that wait, by tenant. Tenants are served by their virtual token counters (Sheng et al., Fairness in Serving
/// Large Language Models, OSDI 2024): whoever has had the fewest tokens for its weight is next, and who comes back after
/// a pause starts where the others are. Within a tenant the lower priority value goes first, then the older request.
package struct FairQueue: Sendable {
    private struct Entry: Comparable {
        let priority: Int
        let id: UInt64

        static func < (left: Entry, right: Entry) -> Bool {
            (left.priority, left.id) < (right.priority, right.id)
        }
    }

    private struct Tenant {
        var name: String
        var weight: Double
        /// Tokens it has had, divided by its weight.
        var service: Double
        var running = 0
        var waiting = 0
        var waitingTokens = 0
        var entries = Heap<Entry>()
        /// Whether it stands in `turns`.
        var hasTurn = false

        var isActive: Bool { running > 0 || waiting > 0 }
    }

    /// A tenant's service when it was put in line. Services only grow, so that a turn is never too late.
    private struct Turn: Comparable {
        let service: Double
        let tenant: Int

        static func < (left: Turn, right: Turn) -> Bool {
            (left.service, left.tenant) < (right.service, right.tenant)
        }
    }

    /// A tenant may fill this many times what is left of the queue: one alone 8 ninths, and however many flood it, some
    /// of it is left for others (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998).
    static let shareOfRest = 8
    /// Tenants that are remembered while they have nothing here.
    static let rememberedTenants = 4096

    private let weights: [String: Double]
    private var tenants: [Tenant] = []
    private var vacant: [Int] = []
    private var indices: [String: Int] = [:]
    private var turns = Heap<Turn>()
    /// Requests in `entries` that wait no longer.
    private var gone: Set<UInt64> = []
    private var activeCount = 0
    /// The service of whoever was served last: where newcomers start.
    private var clock = 0.0
    package private(set) var count = 0
    package private(set) var tokens = 0

    /// - Parameter weights: shares of tenants, above 0; 1 where a tenant has none.
    package init(weights: [String: Double]) {
        self.weights = weights
    }

    // MARK: Tenants

    /// The tenant's number, which is good while it has requests here.
    package mutating func tenant(_ name: String) -> Int {
        if let index = indices[name] { return index }
        let tenant = Tenant(name: name, weight: weights[name] ?? 1, service: 0)
        let index: Int
        if let reused = vacant.popLast() {
            tenants[reused] = tenant
            index = reused
        } else {
            index = tenants.count
            tenants.append(tenant)
        }
        indices[name] = index
        return index
    }

    package func service(of tenant: Int) -> Double { tenants[tenant].service }
    package func running(of tenant: Int) -> Int { tenants[tenant].running }

    /// The tenant was served this many tokens.
    package mutating func charge(_ tenant: Int, tokens: Int) {
        tenants[tenant].service += Double(tokens) / tenants[tenant].weight
        if activeCount == 1 { clock = max(clock, tenants[tenant].service) }
    }

    /// The tenant that runs most for its weight, of those that were served more than `tenant`, if that is still as much as
    /// `tenant` would run with one more: nobody takes a place away and loses it again.
    package func overServed(besides tenant: Int) -> Int? {
        let share = Double(tenants[tenant].running + 1) / tenants[tenant].weight
        var most: (tenant: Int, share: Double)?
        for (index, other) in tenants.enumerated() where other.running > 0 && other.service > tenants[tenant].service {
            let left = Double(other.running - 1) / other.weight
            guard left >= share, left > most?.share ?? -1 else { continue }
            most = (index, left)
        }
        return most?.tenant
    }

    private mutating func change(_ tenant: Int, _ body: (inout Tenant) -> Void) {
        let wasActive = tenants[tenant].isActive
        body(&tenants[tenant])
        guard tenants[tenant].isActive != wasActive else { return }
        if wasActive {
            activeCount -= 1
            forgetIfIdle(tenant)
        } else {
            activeCount += 1
            tenants[tenant].service = max(tenants[tenant].service, clock)
        }
    }

    /// Names come from outside: of those that have nothing here only so many are remembered.
    private mutating func forgetIfIdle(_ tenant: Int) {
        guard !tenants[tenant].isActive, !tenants[tenant].hasTurn, indices.count > Self.rememberedTenants else {
            return
        }
        indices[tenants[tenant].name] = nil
        vacant.append(tenant)
    }

    // MARK: Waiting

    /// Whether the tenant may have one more request of this many tokens wait.
    package func hasRoom(for tenant: String, tokens: Int, limit: Int, tokenLimit: Int) -> Bool {
        guard count > 0 else { return limit > 0 }
        let (waiting, waitingTokens) =
            indices[tenant].map { (tenants[$0].waiting, tenants[$0].waitingTokens) } ?? (0, 0)
        return count < limit && waiting < Self.shareOfRest * (limit - count)
            && tokens <= tokenLimit - self.tokens
            && waitingTokens + tokens <= Self.shareOfRest * (tokenLimit - self.tokens)
    }

    package mutating func push(_ id: UInt64, tenant: Int, priority: Int, tokens: Int) {
        change(tenant) {
            $0.waiting += 1
            $0.waitingTokens += tokens
        }
        tenants[tenant].entries.insert(Entry(priority: priority, id: id))
        if !tenants[tenant].hasTurn {
            tenants[tenant].hasTurn = true
            turns.insert(Turn(service: tenants[tenant].service, tenant: tenant))
        }
        count += 1
        self.tokens += tokens
    }

    /// Whose turn it is.
    package mutating func next() -> UInt64? {
        while let turn = turns.min {
            while let entry = tenants[turn.tenant].entries.min, gone.contains(entry.id) {
                gone.remove(tenants[turn.tenant].entries.removeMin().id)
            }
            guard let entry = tenants[turn.tenant].entries.min else {
                turns.removeMin()
                tenants[turn.tenant].hasTurn = false
                forgetIfIdle(turn.tenant)
                continue
            }
            guard turn.service >= tenants[turn.tenant].service else {
                turns.replaceMin(with: Turn(service: tenants[turn.tenant].service, tenant: turn.tenant))
                continue
            }
            return entry.id
        }
        return nil
    }

    /// Whose turn it is runs from now on.
    package mutating func start(_ id: UInt64, tenant: Int, tokens: Int) {
        tenants[tenant].entries.removeMin()
        clock = max(clock, tenants[tenant].service)
        change(tenant) {
            $0.running += 1
            $0.waiting -= 1
            $0.waitingTokens -= tokens
        }
        count -= 1
        self.tokens -= tokens
    }

    /// A request that waited ends.
    package mutating func remove(_ id: UInt64, tenant: Int, tokens: Int) {
        gone.insert(id)
        change(tenant) {
            $0.waiting -= 1
            $0.waitingTokens -= tokens
        }
        count -= 1
        self.tokens -= tokens
        // Clients that come and go behind others must not make the queue grow.
        guard gone.count > count + 64 else { return }
        for index in tenants.indices where !tenants[index].entries.isEmpty {
            tenants[index].entries = Heap(tenants[index].entries.unordered.filter { !gone.contains($0.id) })
        }
        gone = []
    }

    /// A request that ran ends, or was made to wait again.
    package mutating func stop(tenant: Int) {
        change(tenant) { $0.running -= 1 }
    }
}
