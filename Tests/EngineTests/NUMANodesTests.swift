import Engine
import Foundation
import Testing

@Suite struct NUMANodesTests {
    private let folder = "/sys/devices/system/node/"

    /// A machine's files: by node the processors, the distances, and whether it has memory.
    private func machine(
        _ nodes: [Int: (processors: String, distance: String, memory: Bool)], processors: String = "0-1023",
        memory: String = "0-63"
    ) -> NUMANodes {
        func list(_ numbers: some Sequence<Int>) -> String {
            numbers.sorted().map(String.init).joined(separator: ",") + "\n"
        }
        var files = [
            folder + "online": list(nodes.keys), folder + "has_memory": list(nodes.filter(\.value.memory).keys),
            "/proc/self/status": "Name:\tx\nCpus_allowed_list:\t\(processors)\nMems_allowed_list:\t\(memory)\n",
        ]
        for (number, node) in nodes {
            files[folder + "node\(number)/cpulist"] = node.processors + "\n"
            files[folder + "node\(number)/distance"] = node.distance + "\n"
        }
        return NUMANodes { files[$0] }
    }

    private func node(_ number: Int32, _ processors: [Int]) -> NUMANode {
        NUMANode(number: number, processors: processors)
    }

    @Test func oneNode() {
        let nodes = machine([0: ("0-1", "10", true)])
        #expect(nodes.usable == [node(0, [0, 1])])
        #expect(nodes.pinned == nil)
    }

    @Test func twoNodes() {
        let two = [0: ("0-3,8-11", "10 21", true), 1: ("4-7,12-15", "21 10", true)]
        let all = machine(two)
        #expect(all.usable == [node(0, [0, 1, 2, 3, 8, 9, 10, 11]), node(1, [4, 5, 6, 7, 12, 13, 14, 15])])
        #expect(all.pinned == nil)
        let second = machine(two, processors: "5-6,13")
        #expect(second.usable == [node(1, [5, 6, 13])])
        #expect(second.pinned == 1)
    }

    @Test func eightNodes() {
        let distances = (0..<8).map { from in (0..<8).map { $0 == from ? "10" : "16" }.joined(separator: " ") }
        let nodes = machine(
            Dictionary(uniqueKeysWithValues: (0..<8).map { ($0, ("\($0 * 16)-\($0 * 16 + 15)", distances[$0], true)) }))
        #expect(nodes.usable.map(\.number) == Array(0..<8))
        #expect(nodes.usable.map(\.processors) == (0..<8).map { Array($0 * 16..<$0 * 16 + 16) })
    }

    /// As on a processor whose memory channels beside some of its cores are empty.
    @Test func processorsBesideNoMemoryCountForTheNearestThatHasSome() {
        let nodes = machine([
            0: ("0-1", "10 12 20 22", true), 1: ("2-3", "12 10 22 20", false), 2: ("4-5", "20 22 10 12", true),
            3: ("6-7", "22 20 12 10", false),
        ])
        #expect(nodes.usable == [node(0, [0, 1, 2, 3]), node(2, [4, 5, 6, 7])])
        let unknown = machine([0: ("0", "10", true), 2: ("1", "nonsense", false), 5: ("2", "10 20 10", true)])
        #expect(unknown.usable == [node(0, [0, 1]), node(5, [2])])
    }

    /// Memory of a CXL card, or high-bandwidth memory beside the ordinary.
    @Test func memoryBesideNoProcessorsIsNobodys() {
        let nodes = machine([0: ("0-7", "10 13", true), 2: ("", "13 10", true)])
        #expect(nodes.usable == [node(0, [0, 1, 2, 3, 4, 5, 6, 7])])
        // The other memory is further away.
        #expect(nodes.pinned == 0)
    }

    @Test func memoryThatTheCgroupForbidsIsNone() {
        let nodes = machine([0: ("0-1", "10 21", true), 1: ("2-3", "21 10", true)], memory: "1")
        #expect(nodes.usable == [node(1, [0, 1, 2, 3])])
        #expect(nodes.pinned == 1)
    }

    @Test func aSystemThatTellsOfNoNodesHasOne() {
        #expect(NUMANodes { _ in nil }.usable == [node(0, [0])])
        let old = NUMANodes { $0 == "/proc/self/status" ? "Cpus_allowed_list:\t2-4\n" : nil }
        #expect(old.usable == [node(0, [2, 3, 4])])
        for list in ["1-0", "-", "1-2-3", "x", "0-9999999999", "-1", "70000"] {
            #expect(machine([0: (list, "10", true)]).usable.map(\.number) == [0], "\(list)")
        }
    }

    /// On this machine, and for real.
    @Test func pinning() throws {
        func mask() throws -> String? {
            try String(contentsOfFile: "/proc/thread-self/status", encoding: .utf8).split(separator: "\n")
                .first { $0.hasPrefix("Cpus_allowed_list:") }.map { $0.drop { !$0.isNumber }.description }
        }
        let nodes = NUMANodes().usable
        let last = try #require(nodes.last), processor = try #require(last.processors.last)
        // The thread is others' after this.
        let everywhere = NUMANode(number: 0, processors: nodes.flatMap(\.processors))
        defer { try? everywhere.pin() }
        try NUMANode(number: last.number, processors: [processor]).pin()
        #expect(try mask() == "\(processor)")
        expect("numa") { try NUMANode(number: 9, processors: []).pin() }
        #expect(try mask() == "\(processor)")
    }
}
