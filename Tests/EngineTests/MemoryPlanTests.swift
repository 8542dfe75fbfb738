import Engine
import ModelStore
import Testing

@Suite struct MemoryPlanTests {
    private func plan(
        _ weightMemory: WeightMemory, pages: Int = 8, compute: ComputeBackend = .native
    ) throws -> MemoryPlan {
        let manifest = try Models.demo.get().manifest
        return try MemoryPlan(
            manifest: manifest, shard: .whole(manifest.shape), pages: pages, weightMemory: weightMemory,
            compute: compute, stepRows: 64)
    }

    @Test(arguments: [ComputeBackend.native, .openblas])
    func itSaysWhatTheEngineThenTakes(compute: ComputeBackend) throws {
        let plan = try self.plan(.resident, compute: compute)
        let engine = try Models.demo.get().engine(pages: 8, compute: compute, weightMemory: .resident)
        #expect(UInt64(engine.weightBytes) == (compute == .native ? plan.weightBytes : plan.widenedBytes))
        #expect(UInt64(engine.pageBytes * engine.pages) == plan.keyValueBytes)
        #expect(plan.totalBytes == plan.ownBytes)
    }

    @Test func mappedWeightsCanBeDroppedAndResidentOnesCannot() throws {
        let mapped = try plan(.mapped), resident = try plan(.resident)
        #expect(mapped.totalBytes == resident.ownBytes)
        #expect(mapped.ownBytes == resident.ownBytes - resident.weightBytes)
        let between = AvailableMemory(bytes: mapped.ownBytes, place: "this machine")
        try mapped.check(between)
        #expect {
            try resident.check(between)
        } throws: {
            let error = $0 as? EngineError
            return error?.code == "memory_insufficient"
                && error?.message.contains("need \(resident.ownBytes) bytes, but this machine has \(mapped.ownBytes)")
                    == true
        }
        let little = AvailableMemory(bytes: mapped.ownBytes - 1, place: "this machine")
        expect("memory_insufficient") { try mapped.check(little) }
    }

    @Test func moreThanAnyMachineHasIsRefusedToo() throws {
        let machine = AvailableMemory(bytes: .max - 1, place: "this machine")
        expect("memory_insufficient") { try plan(.mapped, pages: .max).check(machine) }
    }

    @Test func theTable() throws {
        var plan = try self.plan(.resident)
        plan.weightBytes = 3 << 29
        plan.keyValueBytes = 1 << 20
        plan.stepBytes = 1536
        plan.rotaryBytes = 0
        #expect(
            plan.table(AvailableMemory(bytes: 1 << 31, place: "the cgroup /a")) == [
                "weights, resident              1.5 GiB",
                "KV cache, 8 pages              1.0 MiB",
                "buffers, steps of 64 rows      1.5 KiB",
                "rotary table                   0.0 KiB",
                "total                          1.5 GiB",
                "available in the cgroup /a     2.0 GiB",
            ])
    }

    @Test func oneOfSomethingIsNotSeveral() throws {
        var plan = try plan(.mapped, pages: 1)
        plan.stepRows = 1
        let table = plan.table(AvailableMemory(bytes: 1, place: "this machine")).joined(separator: "\n")
        #expect(table.contains("KV cache, 1 page ") && table.contains("steps of 1 row "))
        #expect {
            try plan.check(AvailableMemory(bytes: 1, place: "this machine"))
        } throws: {
            ($0 as? EngineError)?.message.contains("1 KV page of ") == true
        }
    }

    @Test func severalTogether() throws {
        let one = try plan(.resident), other = try plan(.resident, pages: 3)
        let both = MemoryPlan(together: [one, other])
        #expect(both.ownBytes == one.ownBytes + other.ownBytes && both.pages == 11)
        #expect(MemoryPlan(together: [one]) == one)
    }

    /// Resident only beside the processors that read them, and with an eighth of that node to spare.
    @Test func whereTheWeightsAreWhenNobodyHasSaid() throws {
        func settled(node: Int32?, freeBytes: UInt64) throws -> WeightMemory {
            var plan = try plan(.mapped)
            plan.settleWeights(node: node) {
                $0 == "/sys/devices/system/node/node1/meminfo" ? "Node 1 MemFree: \(freeBytes / 1024) kB\n" : nil
            }
            return plan.weightMemory
        }
        let needed = try plan(.resident).ownBytes
        #expect(try settled(node: 1, freeBytes: needed * 8 / 7 + 4096) == .resident)
        #expect(try settled(node: 1, freeBytes: needed * 8 / 7 - 4096) == .mapped)
        #expect(try settled(node: nil, freeBytes: needed * 2) == .mapped)
    }

    // MARK: What there is

    private func available(_ files: [String: String], node: Int32? = nil) -> AvailableMemory {
        AvailableMemory(node: node) { files[$0] }
    }

    private let machine = ["/proc/meminfo": "MemTotal:  9 kB\nMemAvailable:    2048 kB\n"]

    @Test func theMachine() {
        #expect(available(machine) == AvailableMemory(bytes: 2 << 20, place: "this machine"))
        #expect(available([:]).bytes == .max)
        #expect(available(["/proc/meminfo": "MemAvailable: lots\nMemAvailable:\n"]).bytes == .max)
        #expect(AvailableMemory(for: .resident).bytes > 0)
    }

    @Test func theTightestCgroupCounts() {
        let files = machine.merging([
            "/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": "max\n",
            "/sys/fs/cgroup/a/memory.max": "1048576\n", "/sys/fs/cgroup/a/memory.current": "700000\n",
            "/sys/fs/cgroup/a/memory.stat": "anon 600000\ninactive_file 60000\nactive_file 40000\nnonsense\n",
        ]) { $1 }
        #expect(available(files) == AvailableMemory(bytes: 1_048_576 - 600_000, place: "the cgroup /a"))
    }

    @Test func cgroupsOfVersionOne() {
        let files = machine.merging([
            "/proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n0::/\n",
            "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "5000\n",
            "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "9000\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        ]) { $1 }
        #expect(available(files) == AvailableMemory(bytes: 0, place: "the cgroup /job"))
    }

    @Test func theNodeThatWeightsAreBoundTo() {
        let files = machine.merging([
            "/sys/devices/system/node/node1/meminfo":
                "Node 1 MemFree:  1000 kB\nNode 1 Active(file): 20 kB\nNode 1 Inactive(file): 4 kB\n"
        ]) { $1 }
        #expect(available(files, node: 1) == AvailableMemory(bytes: 1024 * 1024, place: "NUMA node 1"))
        #expect(available(files).place == "this machine")
    }
}
