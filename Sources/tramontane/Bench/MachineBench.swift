import Engine

/// What the machine is, and what it can do at most.
struct MachineBench {
    /// Rates with some number of threads.
    struct Rates {
        let threads: Int
        /// Bytes a second.
        let read: Double
        /// Multiply-adds a second of small integers; nil for an instruction set that is not here.
        let integers: [Double?]

        fileprivate init(threads: Int, bytes: Int, repeats: Int) throws {
            let rates = try MachineRates(threads: threads, bytes: bytes)
            self.threads = threads
            read = Median.of(repeats) { rates.readBytesPerSecond() }
            integers = InstructionSet.all.map { set in
                set.isAvailable ? Median.of(repeats) { rates.integersPerSecond(set) } : nil
            }
        }
    }

    let description: MachineDescription
    /// Bytes that were read in one pass.
    let memoryBytes: Int
    let one: Rates
    let all: Rates

    /// - Parameters:
    ///   - repeats: the median of so many measurements counts.
    ///   - memoryBytes: of memory, whose reading shows its bandwidth.
    init(threads: Int, repeats: Int, memoryBytes: Int) throws {
        description = MachineDescription()
        self.memoryBytes = memoryBytes
        one = try Rates(threads: 1, bytes: memoryBytes, repeats: repeats)
        all = threads == 1 ? one : try Rates(threads: threads, bytes: memoryBytes, repeats: repeats)
    }

    /// Memory to read: at least 1 GiB and four times the largest cache, as far as a quarter of what is free allows.
    static func memoryBytes(_ description: MachineDescription) -> Int {
        let wanted = max(1 << 30, 4 * min(description.largestCacheBytes, 1 << 40))
        guard let free = description.availableMemoryBytes else { return wanted }
        return max(64 << 20, min(wanted, free / 4))
    }
}

/// The machine's rates while a model is measured. The bandwidth of a shared machine drifts, so it is looked at whenever the
/// model's figures are.
final class RatesDuringBench {
    private let machine: MachineRates
    private let repeats: Int
    private var reads: [Double] = []
    private(set) lazy var rates = BenchRates(
        readBytes: Median.of(reads), integers: Median.of(repeats) { machine.integersPerSecond() },
        floats: Median.of(repeats) { machine.floatsPerSecond() })

    /// - Parameters:
    ///   - bytes: of memory, whose reading shows its bandwidth.
    ///   - repeats: measurements of the multiply-adds' rates.
    init(threads: Int, bytes: Int, repeats: Int) throws {
        machine = try MachineRates(threads: threads, bytes: bytes)
        self.repeats = repeats
    }

    /// Measures the bandwidth.
    ///
    /// - Returns: the median, in bytes a second.
    @discardableResult
    func read(times: Int) -> Double {
        let measured = (0..<times).map { _ in machine.readBytesPerSecond() }
        reads += measured
        return Median.of(measured)
    }
}

extension MachineBench {
    func write(to object: inout JSONLine.Object) {
        if let processor = description.processor { object.string("processor", processor) }
        if let processors = description.processors { object.number("processors", processors) }
        object.number("processors_available", availableThreads())
        object.objects("caches", description.caches) { object, cache in
            object.number("level", cache.level)
            object.string("kind", cache.kind)
            object.number("bytes", cache.bytes)
        }
        if let bytes = description.memoryBytes { object.number("memory_bytes", bytes) }
        if let mode = description.transparentHugePages { object.string("transparent_huge_pages", mode) }
        object.member("numa_nodes") { line in line.array(description.nodes) { $0.string($1) } }
        object.number("bytes_read_in_a_pass", memoryBytes)
        object.whole("read_bytes_per_second_1_thread", one.read)
        object.whole("read_bytes_per_second", all.read)
        object.objects("instruction_sets", InstructionSet.all.indices) { object, index in
            object.string("name", InstructionSet.all[index].name)
            object.bool("available", InstructionSet.all[index].isAvailable)
            guard let one = one.integers[index], let all = all.integers[index] else { return }
            object.whole("int8_multiply_adds_per_second_1_thread", one)
            object.whole("int8_multiply_adds_per_second", all)
        }
    }

    /// Lines for people.
    func table(chosen: String) -> String {
        let caches = description.caches.map { cache in
            "L\(cache.level)\(cache.kind.first.map { $0 == "U" ? "" : $0.lowercased() } ?? "") "
                + ByteCount.text(UInt64(clamping: cache.bytes))
        }
        var text = """
            processor     \(description.processor ?? "unknown"), \(availableThreads()) of \
            \(description.processors.map(String.init) ?? "unknown") processors available
            caches        \(caches.isEmpty ? "unknown" : caches.joined(separator: ", "))
            memory        \(description.memoryBytes.map { ByteCount.text(UInt64(clamping: $0)) } ?? "unknown"), transparent \
            huge pages: \(description.transparentHugePages ?? "none"), \
            processors by NUMA node: \(description.nodes.isEmpty ? "unknown" : description.nodes.joined(separator: " | "))
            reading       1 thread \(Figure.giga(one.read)) GB/s, \(Figure.threads(all.threads)) \
            \(Figure.giga(all.read)) GB/s (\(ByteCount.text(UInt64(clamping: memoryBytes))) at a time)


            """
        text += TextTable.columns(
            [["INSTRUCTIONS", "", "INT8 GMAC/S, 1 THREAD", Figure.threads(all.threads).uppercased()]]
                + InstructionSet.all.indices.map { index in
                    let name = InstructionSet.all[index].name
                    guard let one = one.integers[index], let all = all.integers[index] else {
                        return [name, "not here", "", ""]
                    }
                    return [name, name == chosen ? "in use" : "", Figure.giga(one), Figure.giga(all)]
                })
        return text
    }
}

/// Figures for people.
enum Figure {
    static func giga(_ value: Double) -> String { fixed(value / 1e9, 1) }

    static func threads(_ count: Int) -> String { count == 1 ? "1 thread" : "\(count) threads" }

    /// With so many digits after the point.
    static func fixed(_ value: Double, _ digits: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "-" }
        let scale = (0..<digits).reduce(1) { product, _ in product * 10 }
        let scaled = Int((abs(value) * Double(scale)).rounded())
        let (whole, rest) = scaled.quotientAndRemainder(dividingBy: scale)
        let sign = value < 0 && scaled > 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(whole)" }
        let fraction = String(rest)
        return "\(sign)\(whole).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
    }
}

extension JSONLine.Object {
    /// A number of which the fraction says nothing.
    mutating func whole(_ name: String, _ value: Double) {
        member(name) { line in
            if let whole = Int(exactly: value.rounded()) { line.number(whole) } else { line.number(value) }
        }
    }

    /// A number with so many digits after the point.
    mutating func rounded(_ name: String, _ value: Double, digits: Int = 2) {
        let scale = (0..<digits).reduce(1.0) { product, _ in product * 10 }
        double(name, (value * scale).rounded() / scale)
    }
}
