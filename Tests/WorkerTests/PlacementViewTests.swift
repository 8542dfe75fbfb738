import TestSupport
import Testing
import Wire
import Worker

@Suite struct PlacementViewTests {
    /// Two stages of two layers: "a", "b" and "c" hold experts 0, 1 and (twice) 2; "d" holds everything.
    private static var placement: ProtoPlacement {
        var placement = ProtoPlacement()
        placement.epoch = 3
        let stages: [[(String, [UInt32])]] = [[("a", [0]), ("b", [1, 2]), ("c", [2])], [("d", [0, 1, 2])]]
        for (index, members) in stages.enumerated() {
            var stage = ProtoStage()
            stage.firstLayer = UInt32(index * 2)
            stage.layerCount = 2
            for (name, experts) in members {
                var member = ProtoMember()
                member.name = name
                member.incarnation = 9
                member.dataAddress = "[::1]:70"
                member.experts = experts
                stage.members.append(member)
            }
            placement.stages.append(stage)
        }
        for home in ["a", "b"] {
            var lane = ProtoLane()
            lane.workers = [home, "d"]
            placement.lanes.append(lane)
        }
        return placement
    }

    private static func view(_ name: String, _ placement: ProtoPlacement = placement) throws -> PlacementView {
        try PlacementView(
            placement: placement, own: PeerID(name: name, incarnation: 9), layerCount: 4, expertCount: 3)
    }

    @Test func eachWorkerSeesItsPart() throws {
        let a = try Self.view("a")
        #expect(a.layers == 0..<2)
        #expect(a.isFirstStage && !a.isLastStage)
        #expect(Set(a.outbound.keys.map(\.name)) == ["b", "c", "d"])
        #expect(try a.outbound.values.first == Address(parsing: "[::1]:70"))
        #expect(a.outbound.values.first?.host == "::1")
        #expect(a.role(inLane: 0)?.next?.name == "d")
        #expect(a.role(inLane: 1) == nil)
        let d = try Self.view("d")
        #expect(d.isLastStage && d.outbound.isEmpty)
        #expect(d.role(inLane: 1)?.previous?.name == "b")
    }

    @Test func theHostOfAnExpertIsItselfOrTheFirstThatIsReached() throws {
        #expect(try Self.view("b").host(of: 2) { _ in false }?.name == "b")
        let a = try Self.view("a")
        #expect(a.host(of: 2) { _ in true }?.name == "b")
        #expect(a.host(of: 2) { $0.name == "c" }?.name == "c")
        #expect(a.host(of: 1) { $0.name == "c" } == nil)
        #expect(a.host(of: 3) { _ in true } == nil)
    }

    @Test func whatContradictsItselfIsRefused() {
        let wrong: [(inout ProtoPlacement) -> Void] = [
            { $0.epoch = 0 },
            { $0.stages = [] },
            { $0.stages[1].firstLayer = 3 },
            { $0.stages[1].layerCount = .max },
            { $0.stages[1].layerCount = 1 },
            { $0.stages[0].members[1].name = "a" },
            { $0.stages[0].members[1].dataAddress = "nowhere" },
            { $0.stages[0].members[1].dataAddress = "host:70000" },
            { $0.stages[0].members[1].experts = [3] },
            { $0.stages[0].members[0].experts = [] },
            { $0.stages[0].members[0].incarnation = 8 },
            { $0.lanes[0].workers = ["a"] },
            { $0.lanes[0].workers = ["a", "b"] },
        ]
        for (index, change) in wrong.enumerated() {
            var placement = Self.placement
            change(&placement)
            #expect(throws: Failure.self, "case \(index)") { try Self.view("a", placement) }
        }
    }

    @Test func backOffDoublesWithinItsLimits() {
        var generator = SeededGenerator(seed: 1)
        var backOff = BackOff(firstMilliseconds: 100, lastMilliseconds: 500)
        for limit in [100, 200, 400, 500, 500] {
            #expect((limit / 2...limit).contains(backOff.next(using: &generator)))
        }
        backOff.reset()
        #expect((50...100).contains(backOff.next(using: &generator)))
    }
}
