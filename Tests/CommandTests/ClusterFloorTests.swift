import Engine
import Testing

@testable import tramontane

/// Experts 0 and 1 are one worker's, 2 and 3 the other's; a worker alone reads 10 bytes a second, both together 15.
@Suite struct ClusterFloorTests {
    private let floor = ClusterFloor(
        shares: [[0, 1], [2, 3]], one: BenchRates(readBytes: 10, integers: 100, floats: 50),
        all: BenchRates(readBytes: 15, integers: 200, floats: 100))

    /// A step of 60 bytes besides its experts of 30 bytes each.
    private func step(_ experts: [[Int]]) -> StepWork {
        var work = StepWork()
        work.weightBytes = 60 + 30 * experts.joined().count
        for (layer, chosen) in experts.enumerated() {
            for expert in chosen {
                var part = ExpertWork(layer: layer, expert: expert)
                part.weightBytes = 30
                work.experts.append(part)
            }
        }
        return work
    }

    @Test func expertsOfOneWorkerAreReadByItAlone() {
        #expect(floor.seconds(step([[0, 1]])) == 6 + 6)
    }

    @Test func expertsOfTwoWorkersAreReadSideBySide() {
        #expect(floor.seconds(step([[0, 2]])) == 6 + 4)
    }

    /// Both read 30 bytes, then one reads 30 more.
    @Test func theSlowestWorkerIsWaitedFor() {
        #expect(floor.seconds(step([[0, 1, 3]])) == 6 + 4 + 3)
    }

    /// Though over both layers the workers have as much to do.
    @Test func everyLayerIsWaitedFor() {
        #expect(floor.seconds(step([[0, 1], [2, 3]])) == 6 + 6 + 6)
    }

    @Test func computingMayTakeLonger() {
        var work = step([[0, 2]])
        work.integerMultiplyAdds = 1_400
        work.floatMultiplyAdds = 100
        work.experts[0].integerMultiplyAdds = 400
        work.experts[1].integerMultiplyAdds = 400
        #expect(floor.seconds(work) == 600 / 100 + 100 / 50 + 4)
        work.experts[1].floatMultiplyAdds = 100
        #expect(floor.seconds(work) == 600 / 100 + 4 + 2)
    }

    @Test func aMachineThatDoesNotDoMoreTogether() {
        #expect(ClusterFloor.together([2, 3], atOnce: 0.9) == 5)
        #expect(ClusterFloor.together([2, 3], atOnce: 1) == 5)
        #expect(ClusterFloor.together([2, 3], atOnce: 2) == 3)
        #expect(ClusterFloor.together([], atOnce: 2) == 0)
    }
}
