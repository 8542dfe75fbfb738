import Coordinator
import Placement
import TestSupport
import Testing
import Wire

@Suite struct MembershipTests {
    /// Two stages of two workers, every expert of the first stage with both, those of the second with one each.
    private static let topology = Topology(stages: [
        .init(layers: 0..<1, members: [.init(name: "a", experts: [0, 1]), .init(name: "b", experts: [0, 1])]),
        .init(layers: 1..<2, members: [.init(name: "c", experts: [0]), .init(name: "d", experts: [1])]),
    ])

    private func makeMembership(
        _ layout: CoordinatorConfiguration.Layout = .topology(topology)
    ) -> Membership {
        Membership(
            layout: layout, rules: Membership.Rules(),
            even: { names, stages throws(TopologyError) in
                Topology(stages: [.init(layers: 0..<2, members: names.map { .init(name: $0, experts: [0, 1]) })])
            },
            checkMemory: { _, _ throws(TopologyError) in })
    }

    private func ready(_ epoch: UInt64) -> ProtoShardReady {
        var ready = ProtoShardReady()
        ready.epoch = epoch
        return ready
    }

    private func bring(_ membership: inout Membership, _ names: [String], session: UInt64 = 1) throws {
        for (index, name) in names.enumerated() {
            _ = try membership.register(
                .init(name: name, incarnation: session, dataAddress: "h:1"), session: session + UInt64(index), now: 0)
        }
    }

    private func load(_ membership: inout Membership, sessions: ClosedRange<UInt64>) -> [Membership.Change] {
        sessions.flatMap { session in
            membership.dataConnected(session: session)
                + membership.shardReady(ready(membership.epoch), session: session, now: 0)
        }
    }

    @Test func everybodyThereIsPlacedAndLoadedIsOpened() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c"])
        #expect(membership.placed == nil)
        let changes = try membership.register(
            .init(name: "d", incarnation: 1, dataAddress: "h:1"), session: 4, now: 0)
        let placed = Membership.Placed(
            epoch: 1, topology: Self.topology, lanes: [["a", "c"], ["b", "d"]])
        #expect(changes == [.joined(name: "d"), .placed(placed)])
        #expect(membership.isLoading)
        #expect(load(&membership, sessions: 1...4) == [.opened(placed)])
        #expect(membership.openLanes == [0, 1] && !membership.isLoading)
    }

    @Test func aLostHomeClosesItsLaneWhereOthersHoldItsExperts() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c", "d"])
        _ = load(&membership, sessions: 1...4)
        let changes = membership.disconnected(session: 1, Failure(code: "x", message: "gone"))
        guard case .closed(let lanes, let failure)? = changes.last else {
            Issue.record("\(changes)")
            return
        }
        #expect(lanes == [0] && failure.code == "worker_lost" && failure.message.contains("\"a\""))
        #expect(membership.disconnected(session: 1, failure).isEmpty, "a worker is lost once")
    }

    @Test func anExpertThatNobodyHoldsClosesEveryLane() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c", "d"])
        _ = load(&membership, sessions: 1...4)
        let changes = membership.disconnected(session: 3, Failure(code: "x", message: "gone"))
        guard case .closed([0, 1], _)? = changes.last else {
            Issue.record("\(changes)")
            return
        }
    }

    @Test func silenceIsLoss() throws {
        var membership = makeMembership()
        try bring(&membership, ["a"])
        membership.heartbeat(ProtoHeartbeat(), session: 1, now: 1000)
        #expect(membership.tick(now: 3500).isEmpty)
        guard case .lost("a", 1, let failure)? = membership.tick(now: 3501).first else {
            Issue.record("still there")
            return
        }
        #expect(failure.code == "heartbeat_missed")
        #expect(membership.tick(now: 9000).isEmpty)
    }

    @Test func timeInWhichTheCoordinatorStoodStillIsNotSilence() throws {
        var membership = makeMembership()
        try bring(&membership, ["a"])
        membership.heartbeat(ProtoHeartbeat(), session: 1, now: 1000)
        membership.stoodStill(milliseconds: 20_000)
        #expect(membership.tick(now: 21_000).isEmpty)
        #expect(membership.tick(now: 23_500).isEmpty)
        #expect(!membership.tick(now: 23_501).isEmpty)
    }

    @Test func aReturnedWorkerBringsANewEpoch() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c", "d"])
        _ = load(&membership, sessions: 1...4)
        _ = membership.disconnected(session: 1, Failure(code: "x", message: "gone"))
        try bring(&membership, ["a"], session: 5)
        #expect(membership.epoch == 2 && membership.isLoading)
        #expect(membership.shardReady(ready(1), session: 2, now: 0).isEmpty, "an answer to the older epoch")
        #expect(load(&membership, sessions: 2...5).count == 1)
        #expect(membership.openLanes == [0, 1])
    }

    @Test func refusals() throws {
        var membership = makeMembership()
        func code(_ name: String, _ incarnation: UInt64) -> String? {
            do {
                _ = try membership.register(
                    .init(name: name, incarnation: incarnation, dataAddress: "h:1"), session: 99, now: 0)
                return nil
            } catch {
                return error.code
            }
        }
        #expect(code("z", 1) == "worker_unknown")
        #expect(code("", 1) == "worker_name")
        #expect(code("a", 1) == nil)
        #expect(code("a", 2) == "worker_duplicate")
        #expect(code("a", 1) == nil, "the same process may connect anew")
        membership = makeMembership(.even(workers: 1, stages: 1))
        // No topology has looked at these names.
        for name in ["", "a b", "../a", "coordinator", "a\n", String(repeating: "x", count: 65)] {
            #expect(code(name, 1) == "worker_name", "\(name)")
        }
        #expect(code("x", 1) == nil)
        #expect(code("y", 1) == "cluster_full")
    }

    @Test func aWorkerThatCannotLoadIsLost() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c", "d"])
        var failed = ready(1)
        failed.failure.code = "blob_hash"
        guard case .lost("b", 2, let failure)? = membership.shardReady(failed, session: 2, now: 0).first else {
            Issue.record("still there")
            return
        }
        #expect(failure.code == "blob_hash")
        #expect(!membership.isLoading)
    }

    @Test func aSuspectedWorkerThatLivesBringsANewEpoch() throws {
        var membership = makeMembership()
        try bring(&membership, ["a", "b", "c", "d"])
        _ = load(&membership, sessions: 1...4)
        membership.peerLost(name: "b", incarnation: 77, now: 10)
        #expect(membership.tick(now: 2000).isEmpty, "another incarnation")
        membership.peerLost(name: "b", incarnation: 1, now: 10)
        #expect(membership.tick(now: 1010).isEmpty)
        guard case .placed? = membership.tick(now: 1011).first else {
            Issue.record("nothing happened")
            return
        }
        #expect(membership.epoch == 2)
    }

    /// Whatever comes in whatever order: epochs count up, lanes are open only while everybody of them is there and
    /// every expert has a holder, nobody is lost twice, and peace opens all lanes again.
    @Test func randomEvents() throws {
        for seed in 0..<1000 {
            var random = SeededGenerator(seed: UInt64(seed))
            var membership = makeMembership()
            var session: UInt64 = 0
            var here: [UInt64: String] = [:]
            var now: UInt64 = 0
            var epoch: UInt64 = 0
            func apply(_ changes: [Membership.Change]) {
                for change in changes {
                    switch change {
                    case .lost(let name, let session, _):
                        #expect(here.removeValue(forKey: session) == name, "seed \(seed): lost a stranger")
                    case .placed(let placed):
                        #expect(placed.epoch == epoch + 1, "seed \(seed)")
                        epoch = placed.epoch
                        #expect(Set(here.values) == ["a", "b", "c", "d"], "seed \(seed)")
                    case .opened(let placed): #expect(placed.epoch == epoch, "seed \(seed)")
                    case .joined, .closed: break
                    }
                }
            }
            func join(_ name: String) {
                session += 1
                let incarnation = UInt64.random(in: 1...2, using: &random)
                guard
                    let changes = try? membership.register(
                        .init(name: name, incarnation: incarnation, dataAddress: "h:1"), session: session, now: now)
                else { return }
                here[session] = name
                apply(changes)
            }
            for _ in 0..<80 {
                now += .random(in: 0...400, using: &random)
                let anyone = UInt64.random(in: 0...session, using: &random)
                switch Int.random(in: 0..<10, using: &random) {
                case 0...1: join(["a", "b", "c", "d", "e"].randomElement(using: &random) ?? "a")
                case 2...3: apply(membership.dataConnected(session: anyone))
                case 4...5:
                    apply(
                        membership.shardReady(ready(.random(in: 0...epoch, using: &random)), session: anyone, now: now))
                case 6 where Bool.random(using: &random):
                    apply(membership.disconnected(session: anyone, Failure(code: "x", message: "")))
                case 7: membership.peerLost(name: "b", incarnation: 1, now: now)
                case 8: apply(membership.tick(now: now))
                default: for session in here.keys { membership.heartbeat(ProtoHeartbeat(), session: session, now: now) }
                }
                for lane in membership.openLanes {
                    let homes = membership.placed?.lanes[lane] ?? []
                    #expect(homes.allSatisfy(here.values.contains), "seed \(seed): lane \(lane) without a home")
                    #expect(here.values.contains("c") && here.values.contains("d"), "seed \(seed): expert unheld")
                }
            }
            for name in ["a", "b", "c", "d"] where !here.values.contains(name) { join(name) }
            for session in here.keys.sorted() {
                apply(membership.dataConnected(session: session))
                apply(membership.shardReady(ready(epoch), session: session, now: now))
            }
            #expect(membership.openLanes == [0, 1] || here.count < 4, "seed \(seed): peace opens the lanes")
        }
    }

    @Test func lanePagesAreDisjointWhereWorkersAreShared() {
        for seed in 0..<500 {
            var random = SeededGenerator(seed: UInt64(seed))
            let stages = (0..<Int.random(in: 1...4, using: &random)).map { stage in
                Topology.Stage(
                    layers: stage..<stage + 1,
                    members: (0..<Int.random(in: 1...5, using: &random)).map {
                        .init(name: "\(stage)-\($0)", experts: [0])
                    })
            }
            let lanes = Topology(stages: stages).lanes
            let pages = LanePages.divide(pages: 100, among: lanes)
            #expect(Set(pages.map(\.count)).count == 1, "seed \(seed)")
            #expect(pages.allSatisfy { $0.upperBound <= 100 && !$0.isEmpty }, "seed \(seed)")
            for one in lanes.indices {
                for other in 0..<one where !Set(lanes[one]).isDisjoint(with: lanes[other]) {
                    #expect(!pages[one].overlaps(pages[other]), "seed \(seed)")
                }
            }
        }
    }
}
