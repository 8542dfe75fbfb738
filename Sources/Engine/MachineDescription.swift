/// What the system says of the machine; nil where it does not say.
package struct MachineDescription: Sendable, Equatable {
    package struct Cache: Sendable, Equatable {
        package var level: Int
        /// "Data", "Instruction" or "Unified".
        package var kind: String
        package var bytes: Int
    }

    package var processor: String?
    /// Processors that are there; this process may have fewer (`availableThreads`).
    package var processors: Int?
    /// The first processor's.
    package var caches: [Cache] = []
    package var memoryBytes: Int?
    package var availableMemoryBytes: Int?
    /// "always", "madvise" or "never".
    package var transparentHugePages: String?
    /// Processors of each NUMA node, as `0-3,8`.
    package var nodes: [String] = []

    /// The largest cache: memory must be far larger to be measured.
    package var largestCacheBytes: Int { caches.map(\.bytes).max() ?? 0 }

    package init() {
        self.init(read: readText)
    }

    /// The machine that `read` tells of, file by file; it gives nil for a file that is not there.
    package init(read: (String) -> String?) {
        let lines = read("/proc/cpuinfo")?.split(separator: "\n") ?? []
        processor = Self.value(of: "model name", in: lines)
        processors = read("/sys/devices/system/cpu/online").flatMap(numbers(ofList:))?.count
        for index in 0..<16 {
            let folder = "/sys/devices/system/cpu/cpu0/cache/index\(index)/"
            guard let level = read(folder + "level").flatMap({ Int(Self.line($0)) }),
                let kind = read(folder + "type").map(Self.line),
                let bytes = read(folder + "size").flatMap({ Self.bytes(Self.line($0)) })
            else { break }
            caches.append(Cache(level: level, kind: kind, bytes: bytes))
        }
        let memory = read("/proc/meminfo")?.split(separator: "\n") ?? []
        memoryBytes = Self.value(of: "MemTotal", in: memory).flatMap(Self.bytes)
        availableMemoryBytes = Self.value(of: "MemAvailable", in: memory).flatMap(Self.bytes)
        // The chosen word stands in brackets: "always [madvise] never".
        transparentHugePages = read("/sys/kernel/mm/transparent_hugepage/enabled")
            .flatMap { $0.split(separator: "[").dropFirst().first?.split(separator: "]").first }.map(String.init)
        for node in 0..<1024 {
            guard let list = read("/sys/devices/system/node/node\(node)/cpulist") else { break }
            nodes.append(Self.line(list))
        }
    }

    private static func line(_ text: String) -> String {
        String(text.prefix { !$0.isNewline })
    }

    /// The value of the first line `name: value`.
    private static func value(of name: String, in lines: [Substring]) -> String? {
        for line in lines {
            let fields = line.split(separator: ":", maxSplits: 1)
            if fields.count == 2, fields[0].trimmingSpace == name { return fields[1].trimmingSpace }
        }
        return nil
    }

    /// "32K", "260M", "24617940 kB".
    private static func bytes(_ text: String) -> Int? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let shifts: [Character: Int] = ["k": 10, "m": 20, "g": 30]
        guard let value = Int(digits) else { return nil }
        let unit = text.dropFirst(digits.count).first { $0 != " " }?.lowercased().first
        let (bytes, overflow) = value.multipliedReportingOverflow(by: 1 << (unit.flatMap { shifts[$0] } ?? 0))
        return overflow ? nil : bytes
    }
}

extension Substring {
    fileprivate var trimmingSpace: String {
        var rest = self
        while rest.first?.isWhitespace == true { rest.removeFirst() }
        while rest.last?.isWhitespace == true { rest.removeLast() }
        return String(rest)
    }
}
