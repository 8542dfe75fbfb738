import Glibc

/// Threads that this process may run at once: the processors of its affinity mask, within its cgroup's quota (at least 1).
package func availableThreads() -> Int {
    availableThreads(read: readText)
}

/// The same on a machine that `read` tells of, file by file; it gives nil for a file that is not there.
package func availableThreads(read: (String) -> String?) -> Int {
    max(1, min(affinityProcessors(read: read) ?? 1, CgroupQuota.processors(read: read) ?? Int.max))
}

/// The first 16 KiB of a file, nil where it cannot be read.
func readText(_ path: String) -> String? {
    guard let file = fopen(path, "re") else { return nil }
    defer { fclose(file) }
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16384) { buffer in
        let count = fread(buffer.baseAddress, 1, buffer.count, file)
        return String(decoding: buffer[..<count], as: UTF8.self)
    }
}

/// Processors in the process's affinity mask, where `/proc` tells: hexadecimal words, "Cpus_allowed:  ff,ffffffff".
func affinityProcessors(read: (String) -> String?) -> Int? {
    guard let status = read("/proc/self/status"),
        let line = status.split(separator: "\n").first(where: { $0.hasPrefix("Cpus_allowed:") })
    else { return nil }
    let count = line.dropFirst("Cpus_allowed:".count).reduce(0) { $0 + ($1.hexDigitValue?.nonzeroBitCount ?? 0) }
    return count > 0 ? count : nil
}

/// The numbers of a list such as `0-3,8`, ascending and each once; nil for what is none, and for numbers of no machine.
func numbers(ofList text: String) -> [Int]? {
    var numbers: Set<Int> = []
    for part in text.split(whereSeparator: { $0 == "," || $0.isWhitespace }) {
        let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
        guard ends.count <= 2, let first = ends.first ?? nil, let last = ends.last ?? nil, first >= 0, last >= first,
            last < 1 << 16
        else { return nil }
        numbers.formUnion(first...last)
    }
    return numbers.sorted()
}

/// A control group that the calling process is in, directly or by one below it.
struct Cgroup {
    /// In the hierarchy.
    let path: String
    /// Where its files are.
    let folder: String
    /// Of version 2, which has one hierarchy for all controllers.
    let isUnified: Bool

    /// The groups that a controller limits the process by, from its own up to the root.
    ///
    /// - Parameter read: a file's text, nil where it cannot be read.
    static func all(controller: String, read: (String) -> String?) -> [Cgroup] {
        var all: [Cgroup] = []
        for line in read("/proc/self/cgroup")?.split(separator: "\n") ?? [] {
            // hierarchy:controllers:path; cgroup 2 has the hierarchy 0 and no controllers (cgroups(7)).
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { continue }
            let isUnified = fields[0] == "0"
            guard isUnified || fields[1].split(separator: ",").contains(Substring(controller)) else { continue }
            let root = isUnified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/\(fields[1])"
            var path = fields[2].split(separator: "/")
            while true {
                let below = path.map { "/" + $0 }.joined()
                all.append(Cgroup(path: below.isEmpty ? "/" : below, folder: root + below, isUnified: isUnified))
                if path.popLast() == nil { break }
            }
        }
        return all
    }
}

/// The processor quota of the calling process's cgroup and of those above it.
enum CgroupQuota {
    /// Whole processors that the quota pays for (at least 1), or nil where there is no quota.
    ///
    /// - Parameter read: a file's text, nil where it cannot be read.
    static func processors(read: (String) -> String?) -> Int? {
        var tightest: Int?
        for group in Cgroup.all(controller: "cpu", read: read) {
            if let quota = group.isUnified ? unified(group.folder, read) : legacy(group.folder, read) {
                tightest = min(tightest ?? quota, quota)
            }
        }
        return tightest
    }

    /// `cpu.max`: "max 100000" or "quota period".
    private static func unified(_ folder: String, _ read: (String) -> String?) -> Int? {
        let fields = read(folder + "/cpu.max")?.split(whereSeparator: \.isWhitespace) ?? []
        guard fields.count == 2 else { return nil }
        return whole(Int(fields[0]), Int(fields[1]))
    }

    private static func legacy(_ folder: String, _ read: (String) -> String?) -> Int? {
        func number(_ name: String) -> Int? {
            read(folder + "/" + name)?.split(whereSeparator: \.isWhitespace).first.flatMap { Int($0) }
        }
        return whole(number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"))
    }

    private static func whole(_ quota: Int?, _ period: Int?) -> Int? {
        guard let quota, let period, quota > 0, period > 0 else { return nil }
        return max(1, quota / period)
    }
}
