package import Placement
package import Wire

/// Who is in the cluster, in which state, and what follows from it: when all expected workers are there, a placement
/// with a new epoch; when all have loaded it, open lanes; when one is lost, closed lanes. A value: events come in
/// with the time, changes go out, the shell performs them.
///
/// A worker is `joining` once it has registered, `loading` once it was assigned its part, `ready` when it said so and
/// its data connection stands, and `lost` when its connection closed, its heartbeat stayed out or it failed to load.
/// A lost worker that registers again is new; when everybody is there again, everybody is assigned again under a new
/// epoch.
package struct Membership: Sendable {
    package enum State: String, Sendable, CaseIterable {
        case joining, loading, ready, lost
    }

    /// What a worker says of itself, checked.
    package struct Registration: Sendable, Equatable {
        package var name: String
        package var incarnation: UInt64
        package var dataAddress: String
        package var threads: UInt32 = 1
        package var memoryBytes: UInt64 = 0
        package var processID: UInt32 = 0
        package var instructionSet = ""
        package var metricsAddress = ""

        package init(name: String, incarnation: UInt64, dataAddress: String) {
            self.name = name
            self.incarnation = incarnation
            self.dataAddress = dataAddress
        }
    }

    package struct Member: Sendable, Equatable {
        package internal(set) var registration: Registration
        /// The control connection it registered on; connections are never numbered twice.
        package internal(set) var session: UInt64
        package internal(set) var state = State.joining
        package internal(set) var lastHeard: UInt64
        package internal(set) var weightBytes: UInt64 = 0
        package internal(set) var pages: UInt32 = 0
        package internal(set) var accounting = ProtoWorkerAccounting()
        package internal(set) var progress: UInt64 = 0
        /// The shard of this epoch is loaded.
        var loadedEpoch: UInt64 = 0
        var isDataConnected = false
    }

    package struct Placed: Sendable, Equatable {
        package var epoch: UInt64
        package var topology: Topology
        package var lanes: [[String]]

        package init(epoch: UInt64, topology: Topology, lanes: [[String]]) {
            self.epoch = epoch
            self.topology = topology
            self.lanes = lanes
        }
    }

    package enum Change: Sendable, Equatable {
        case joined(name: String)
        /// The worker is out: its connections are to be closed, saying why.
        case lost(name: String, session: UInt64, Failure)
        /// Everybody is there: lanes close without failing anything, everybody is to be assigned this and dialled.
        case placed(Placed)
        /// Everybody has loaded it: lanes open.
        case opened(Placed)
        /// These lanes' requests fail; the failure says which worker was lost.
        case closed(lanes: [Int], Failure)
    }

    package struct Rules: Sendable {
        package var heartbeatTimeoutMilliseconds: UInt64 = 2_500
        /// How long a worker that another cannot reach may still turn out to be lost, before everybody connects anew.
        package var suspicionMilliseconds: UInt64 = 1_000

        package init() {}
    }

    package let layout: CoordinatorConfiguration.Layout
    package let rules: Rules
    /// Deals a model evenly over workers of these names, or checks memory; set by the shell from shape and manifest.
    private let even: @Sendable ([String], Int) throws(TopologyError) -> Topology
    private let checkMemory: @Sendable (Topology, [String: UInt64]) throws(TopologyError) -> Void

    package private(set) var members: [String: Member] = [:]
    package private(set) var epoch: UInt64 = 0
    package private(set) var placed: Placed?
    /// Lanes of the placement that serve; empty until it is opened.
    package private(set) var openLanes: Set<Int> = []
    private var isOpened = false
    private var suspectedSince: UInt64?

    package init(
        layout: CoordinatorConfiguration.Layout, rules: Rules,
        even: @escaping @Sendable (_ names: [String], _ stages: Int) throws(TopologyError) -> Topology,
        checkMemory: @escaping @Sendable (Topology, _ memoryBytes: [String: UInt64]) throws(TopologyError) -> Void
    ) {
        self.layout = layout
        self.rules = rules
        self.even = even
        self.checkMemory = checkMemory
    }

    /// Everybody is assigned and not everybody is ready yet: lanes will open without anybody else's doing.
    package var isLoading: Bool {
        placed != nil && !isOpened && alive.count == expectedCount
    }

    private var alive: [Member] { members.values.filter { $0.state != .lost } }

    private var expectedCount: Int {
        switch layout {
        case .topology(let topology): topology.workers.count
        case .even(let workers, _): workers
        }
    }

    // MARK: Events

    /// - Throws: why the worker is not taken. Its connection is to be closed with that.
    package mutating func register(
        _ registration: Registration, session: UInt64, now: UInt64
    ) throws(Failure) -> [Change] {
        try check(registration)
        var changes: [Change] = []
        if let old = members[registration.name], old.state != .lost {
            guard old.registration.incarnation == registration.incarnation else {
                throw Failure(
                    code: "worker_duplicate",
                    message: "worker \"\(registration.name)\" is here already, as another process; give this one "
                        + "another name")
            }
            // The same process over a new connection: the old one is dead, only nobody has noticed.
            changes += lose(
                registration.name, Failure(code: "connection_superseded", message: "the worker has connected anew"))
        } else if members[registration.name] == nil, case .even(let workers, _) = layout, alive.count >= workers {
            throw Failure(
                code: "cluster_full", message: "\(workers) workers are here already, which is all that are expected")
        }
        // Under an even layout a new name takes the place of a lost one.
        if case .even = layout { members = members.filter { $0.value.state != .lost } }
        members[registration.name] = Member(registration: registration, session: session, lastHeard: now)
        changes.append(.joined(name: registration.name))
        return changes + placeIfComplete()
    }

    package mutating func heartbeat(_ heartbeat: ProtoHeartbeat, session: UInt64, now: UInt64) {
        guard let name = name(of: session) else { return }
        members[name]?.lastHeard = now
        members[name]?.progress = heartbeat.progress
        if heartbeat.hasAccounting { members[name]?.accounting = heartbeat.accounting }
    }

    package mutating func shardReady(_ ready: ProtoShardReady, session: UInt64, now: UInt64) -> [Change] {
        guard let name = name(of: session) else { return [] }
        members[name]?.lastHeard = now
        // The answer to an older assignment; the one to the newer will follow.
        guard ready.epoch == epoch else { return [] }
        if ready.hasFailure {
            return lose(name, Failure(code: ready.failure.code, message: ready.failure.message))
        }
        members[name]?.loadedEpoch = ready.epoch
        members[name]?.weightBytes = ready.weightBytes
        members[name]?.pages = ready.pages
        return openIfComplete()
    }

    package mutating func dataConnected(session: UInt64) -> [Change] {
        guard let name = name(of: session) else { return [] }
        members[name]?.isDataConnected = true
        return openIfComplete()
    }

    /// A connection of the worker, control or data, closed.
    package mutating func disconnected(session: UInt64, _ failure: Failure) -> [Change] {
        guard let name = name(of: session) else { return [] }
        return lose(name, failure)
    }

    /// A worker cannot reach another. If that one is alive otherwise, everybody connects anew under a new epoch.
    package mutating func peerLost(name: String, incarnation: UInt64, now: UInt64) {
        guard let member = members[name], member.state != .lost, member.registration.incarnation == incarnation,
            placed != nil
        else { return }
        suspectedSince = suspectedSince ?? now
    }

    /// A step did not come back: as with a suspected worker, everybody starts anew.
    package mutating func stuck() -> [Change] {
        suspectedSince = nil
        return placeIfComplete()
    }

    /// This process heard nobody for so long because it stood still itself (stopped, or starved of processors): that is
    /// not held against the workers, whose heartbeats wait in the sockets.
    package mutating func stoodStill(milliseconds: UInt64) {
        for name in members.keys { members[name]?.lastHeard += milliseconds }
    }

    package mutating func tick(now: UInt64) -> [Change] {
        var changes: [Change] = []
        for member in alive.sorted(by: { $0.registration.name < $1.registration.name }) {
            guard now > member.lastHeard, now - member.lastHeard > rules.heartbeatTimeoutMilliseconds else { continue }
            changes += lose(
                member.registration.name,
                Failure(
                    code: "heartbeat_missed",
                    message: "no heartbeat for \(now - member.lastHeard) ms, at most "
                        + "\(rules.heartbeatTimeoutMilliseconds) are allowed"))
        }
        if let since = suspectedSince, now >= since, now - since > rules.suspicionMilliseconds {
            suspectedSince = nil
            changes += placeIfComplete()
        }
        return changes
    }

    package func name(of session: UInt64) -> String? {
        members.first { $0.value.session == session && $0.value.state != .lost }?.key
    }

    // MARK: Consequences

    private func check(_ registration: Registration) throws(Failure) {
        if let problem = Topology.problem(withName: registration.name) {
            throw Failure(code: "worker_name", message: "a worker's name \(problem)")
        }
        guard case .topology(let topology) = layout, topology.locate(registration.name) == nil else { return }
        throw Failure(
            code: "worker_unknown",
            message: "worker \"\(registration.name)\" is not in the topology, which names "
                + topology.workers.prefix(16).joined(separator: ", "))
    }

    private mutating func lose(_ name: String, _ failure: Failure) -> [Change] {
        guard let member = members[name], member.state != .lost else { return [] }
        members[name]?.state = .lost
        suspectedSince = nil
        var changes = [Change.lost(name: name, session: member.session, failure)]
        guard let placed, isOpened, let (stage, _) = placed.topology.locate(name) else { return changes }
        // Every expert needs somebody, or no lane can go through the stage.
        let here = placed.topology.stages[stage].members.filter { isHere($0.name) }
        let held = Set(here.flatMap(\.experts))
        let all = Set(placed.topology.stages[stage].members.flatMap(\.experts))
        let lanes = openLanes.filter { held != all || placed.lanes[$0].contains(name) }.sorted()
        openLanes.subtract(lanes)
        if !lanes.isEmpty {
            changes.append(
                .closed(
                    lanes: lanes,
                    Failure(code: "worker_lost", message: "worker \"\(name)\" was lost: \(failure.message)")))
        }
        return changes
    }

    private func isHere(_ name: String) -> Bool {
        members[name].map { $0.state != .lost } ?? false
    }

    private mutating func placeIfComplete() -> [Change] {
        guard alive.count == expectedCount else { return [] }
        let topology: Topology
        do throws(TopologyError) {
            switch layout {
            case .topology(let fixed): topology = fixed
            case .even(_, let stages):
                // Shorter names first, so that w2 comes before w10.
                let names = alive.map(\.registration.name).sorted {
                    ($0.utf8.count, $0) < ($1.utf8.count, $1)
                }
                topology = try even(names, stages)
            }
            try checkMemory(topology, members.mapValues(\.registration.memoryBytes))
        } catch {
            let name = error.worker ?? alive.map(\.registration.name).max() ?? ""
            return lose(name, Failure(code: error.code, message: error.message))
        }
        epoch += 1
        isOpened = false
        openLanes = []
        suspectedSince = nil
        for name in members.keys where isHere(name) { members[name]?.state = .loading }
        let placed = Placed(epoch: epoch, topology: topology, lanes: topology.lanes)
        self.placed = placed
        return [.placed(placed)]
    }

    private mutating func openIfComplete() -> [Change] {
        guard let placed, !isOpened else { return [] }
        for (name, member) in members where member.state == .loading {
            if member.loadedEpoch == epoch, member.isDataConnected { members[name]?.state = .ready }
        }
        guard placed.topology.workers.allSatisfy({ members[$0]?.state == .ready }) else { return [] }
        isOpened = true
        openLanes = Set(placed.lanes.indices)
        return [.opened(placed)]
    }
}
