import CKernels

/// Rows of float32, one after the other, that an engine's steps use again and again.
///
/// Confined to the thread that uses the engine. The memory starts at a multiple of 64 bytes and only ever grows.
package final class RowBuffer {
    /// Floats in a row.
    package let width: Int
    /// Rows in use.
    package private(set) var rows: Int
    private var capacity: Int
    private var storage: UnsafeMutableRawPointer

    package init(rows: Int, width: Int) {
        precondition(rows >= 0 && width >= 0, "a buffer's shape comes from checked counts")
        self.width = width
        self.rows = rows
        self.capacity = rows
        self.storage = Self.allocate(rows: rows, width: width)
    }

    deinit {
        storage.deallocate()
    }

    /// Sets the number of rows in use. Rows that stay keep what they hold; new ones hold anything.
    package func resize(rows: Int) {
        precondition(rows >= 0, "a buffer's shape comes from checked counts")
        if rows > capacity {
            let grown = Self.allocate(rows: rows, width: width)
            grown.copyMemory(from: storage, byteCount: self.rows * width * MemoryLayout<Float>.size)
            storage.deallocate()
            storage = grown
            capacity = rows
        }
        self.rows = rows
    }

    /// The first float of the first row.
    package var base: UnsafeMutablePointer<Float> {
        storage.assumingMemoryBound(to: Float.self)
    }

    /// The first float of a row in use.
    package subscript(row: Int) -> UnsafeMutablePointer<Float> {
        precondition(row >= 0 && row < rows, "row outside the buffer")
        return base + row * width
    }

    /// A row in use, as a buffer of `width` floats.
    package func row(_ row: Int) -> UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(start: self[row], count: width)
    }

    /// Whether a row in use holds only numbers.
    package func isFinite(row: Int) -> Bool {
        tk_all_finite(Kernels.isa, self[row], width)
    }

    private static func allocate(rows: Int, width: Int) -> UnsafeMutableRawPointer {
        let bytes = max(rows * width * MemoryLayout<Float>.size, 64)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
        memory.bindMemory(to: Float.self, capacity: bytes / MemoryLayout<Float>.size)
        return memory
    }
}

/// The rows of `width` float32 in `bytes`, which may lie anywhere, that hold a NaN or an infinity.
package func rowsNotFinite(_ bytes: UnsafeRawBufferPointer, width: Int) -> [Int] {
    let rowBytes = width * MemoryLayout<Float>.size
    guard rowBytes > 0, let base = bytes.baseAddress else { return [] }
    return (0..<bytes.count / rowBytes).filter { !tk_all_finite(Kernels.isa, base + $0 * rowBytes, width) }
}

/// Raw memory that starts at a multiple of 64 bytes and grows on demand; its contents do not outlive a growth.
package final class Scratch {
    private var capacity = 0
    private var storage: UnsafeMutableRawPointer?

    package init() {}

    deinit {
        storage?.deallocate()
    }

    /// What was reserved last.
    package var base: UnsafeMutableRawPointer { reserve(0) }

    /// At least `bytes` bytes, holding anything. Pointers from before a growth point nowhere.
    package func reserve(_ bytes: Int) -> UnsafeMutableRawPointer {
        if let storage, bytes <= capacity { return storage }
        storage?.deallocate()
        let grown = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 64), alignment: 64)
        storage = grown
        capacity = max(bytes, 64)
        return grown
    }
}
