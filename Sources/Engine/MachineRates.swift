import CKernels

/// Measures what this machine can do at most with a number of threads.
package final class MachineRates {
    package let threads: Int
    private let pool: ThreadPool
    private let memory: MappedMemory

    /// What a thread takes at a time: long against waking one, short against the whole.
    private static let pieceBytes = 8 << 20
    private static let pieces = 8

    /// - Parameter bytes: of memory to read, far more than the caches hold; taken, and written once, here. In whole MiB.
    /// - Throws: `EngineError` `memory`.
    package init(threads: Int, bytes: Int) throws {
        pool = ThreadPool(threads: threads)
        self.threads = pool.threads
        memory = try MappedMemory(bytes: max(bytes >> 20, 1) << 20)
        // Memory that was never written is one page of zeros, which caches hold.
        overPieces { $0.initializeMemory(as: UInt8.self, repeating: 0x55, count: $1) }
    }

    /// Reads the memory once: bytes a second.
    package func readBytesPerSecond() -> Double {
        let isa = Kernels.isa
        let seconds = Self.seconds {
            overPieces { _ = tk_measure_read(isa, $0, $1) }
        }
        return Double(memory.bytes) / seconds
    }

    /// Multiply-adds a second of small integers in `set`, which the machine has.
    package func integersPerSecond(_ set: InstructionSet = .current) -> Double {
        perSecond { tk_measure_integers(set.isa, $0) }
    }

    /// Multiply-adds a second of float32 in `set`, which the machine has.
    package func floatsPerSecond(_ set: InstructionSet = .current) -> Double {
        perSecond { tk_measure_floats(set.isa, $0) }
    }

    /// Runs ever more rounds until they take some milliseconds on one thread, then as many on all.
    private func perSecond(_ measure: (Int) -> UInt64) -> Double {
        var rounds = 256
        while rounds < 1 << 32, Self.seconds({ _ = measure(rounds) }) < 0.004 { rounds *= 2 }
        let items = threads * Self.pieces
        // Only to know how many there are in a piece.
        let each = Double(measure(rounds))
        let seconds = Self.seconds {
            pool.run(items: items) { _ in _ = measure(rounds) }
        }
        return each * Double(items) / seconds
    }

    private func overPieces(_ body: (_ piece: UnsafeMutableRawPointer, _ bytes: Int) -> Void) {
        let count = (memory.bytes + Self.pieceBytes - 1) / Self.pieceBytes
        pool.run(items: count) { piece in
            let offset = piece * Self.pieceBytes
            body(memory.base + offset, min(Self.pieceBytes, memory.bytes - offset))
        }
    }

    private static func seconds(_ body: () -> Void) -> Double {
        let start = ContinuousClock.now
        body()
        return (ContinuousClock.now - start) / .seconds(1)
    }
}
