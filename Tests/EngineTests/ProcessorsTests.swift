import Engine
import Testing

@Suite struct ProcessorsTests {
    private let status = "Name:\tx\nCpus_allowed:\tff,0000ffff\nCpus_allowed_list:\t0-15,32-39\n"

    private func threads(_ files: [String: String]) -> Int {
        availableThreads { files[$0] }
    }

    @Test func theAffinityMaskIsCounted() {
        #expect(threads(["/proc/self/status": status]) == 24)
        #expect(threads([:]) == 1)
    }

    @Test func theTightestQuotaUpTheTreeCounts() {
        #expect(
            threads([
                "/proc/self/status": status, "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "/sys/fs/cgroup/a/cpu.max": "350000 100000\n",
                "/sys/fs/cgroup/cpu.max": "900000 100000\n",
            ]) == 3)
        #expect(
            threads([
                "/proc/self/status": status, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n",
            ]) == 1)
    }

    @Test func cgroupsOfVersionOne() {
        #expect(
            threads([
                "/proc/self/status": status, "/proc/self/cgroup": "12:memory:/m\n4:cpu,cpuacct:/job\n0::/\n",
                "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            ]) == 4)
    }

    @Test func nonsenseIsNoQuota() {
        #expect(
            threads([
                "/proc/self/status": status, "/proc/self/cgroup": "nonsense\n0:\n0::/\n",
                "/sys/fs/cgroup/cpu.max": "1e9 zero\n",
            ]) == 24)
    }

    @Test func thisMachineHasAtLeastOne() {
        #expect(availableThreads() >= 1)
    }
}
