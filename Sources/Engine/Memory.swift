import CNUMA
import Glibc
import Logging
import Synchronization

/// Memory straight from the system, zeroed, with huge pages asked for; given back when the value goes.
final class MappedMemory {
    /// Aligned to a huge page.
    let base: UnsafeMutableRawPointer
    let bytes: Int

    private static let hugePageBytes = 2 << 20

    /// - Throws: `EngineError` `memory` where the system does not give as much.
    init(bytes: Int) throws {
        self.bytes = max(bytes, 1)
        let (room, overflow) = self.bytes.addingReportingOverflow(Self.hugePageBytes)
        guard !overflow,
            let start = mmap(nil, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
            start != MAP_FAILED
        else {
            throw EngineError(
                code: "memory", message: "cannot map \(bytes) bytes of memory: \(String(cString: strerror(errno)))")
        }
        // A huge page begins at a multiple of its size only; what is left over at both ends goes back.
        let base = start.alignedUp(toMultipleOf: Self.hugePageBytes)
        self.base = base
        if base > start { munmap(start, base - start) }
        let end = (base + self.bytes).alignedUp(toMultipleOf: Int(getpagesize()))
        if end < start + room { munmap(end, start + room - end) }
        // Advice: without huge pages everything works, with more TLB misses. `MemorySurvey` has told the user.
        _ = madvise(base, self.bytes, MADV_HUGEPAGE)
    }

    /// Whether the memory will come from a NUMA node and no other, for what has not been touched yet.
    ///
    /// Not only preferably: beside the file cache that loading fills, a preference would soon take another node's memory,
    /// where a binding makes the system drop some of the cache.
    func bind(toNode node: Int32) -> Bool {
        guard let mask = numa_allocate_nodemask() else { return false }
        defer { numa_bitmask_free(mask) }
        numa_bitmask_setbit(mask, UInt32(node))
        return mbind(base, UInt(bytes), MPOL_BIND, mask.pointee.maskp, UInt(mask.pointee.size) + 1, 0) == 0
    }

    /// No write from now on.
    ///
    /// - Throws: `EngineError` `memory`.
    func seal() throws {
        guard mprotect(base, bytes, PROT_READ) == 0 else {
            throw EngineError(
                code: "memory",
                message: "cannot protect \(bytes) bytes of memory: \(String(cString: strerror(errno)))")
        }
    }

    deinit {
        munmap(base, bytes)
    }
}

/// What this machine offers an engine beyond plain memory, told to the user once in a process.
enum MemorySurvey {
    /// Logs what is missing (huge pages, NUMA) at the first call. What is not bound needs no binding: Linux takes it from the
    /// node of the thread that first touches it, so a worker that is pinned to a node computes in that node's memory.
    static func tellOnce(_ logger: Logger?) {
        guard let logger, Told.shared.first() else { return }
        let huge = readText("/sys/kernel/mm/transparent_hugepage/enabled")
        if huge == nil || huge?.contains("[never]") == true {
            logger.notice("huge pages are not available; going on without them")
        }
        guard numa_available() >= 0 else {
            logger.info("NUMA is not available; going on without it")
            return
        }
        let nodes = numa_num_configured_nodes()
        guard nodes > 1 else {
            logger.debug("one NUMA node")
            return
        }
        if let node = NUMANodes().pinned {
            logger.info("this process runs on NUMA node \(node) of \(nodes)")
        } else {
            logger.notice("this process runs on several of \(nodes) NUMA nodes; --numa gives each a worker of its own")
        }
    }
}

/// True once.
private final class Told: Sendable {
    static let shared = Told()
    private let told = Atomic<Bool>(false)

    func first() -> Bool {
        !told.exchange(true, ordering: .relaxed)
    }
}
