/// The pages that hold a sequence's keys and values, first to last: page `i` holds positions `32 i` to `32 i + 31`.
///
/// The ids index the engine's own pages; the same id means another place in every layer.
package typealias PageTable = [Int32]

/// A row of a step: where it stands in its sequence, and where that sequence's KV is.
package struct AttentionRow: Sendable {
    /// From 0. The row attends to itself and every earlier position.
    package var position: Int
    package var pages: PageTable

    package init(position: Int, pages: PageTable) {
        self.position = position
        self.pages = pages
    }
}

/// One row of a step whose pages stand in a list with those of other rows.
package struct PlacedRow: Sendable {
    /// From 0. The row attends to itself and every earlier position.
    package var position: Int
    /// Places of its sequence's table in the list.
    package var pages: Range<Int>

    package init(position: Int, pages: Range<Int>) {
        self.position = position
        self.pages = pages
    }
}

/// Who computes the products.
package enum ComputeBackend: String, Sendable, CaseIterable {
    /// The project's kernels: one result whatever the batch, the threads and the instruction set.
    case native
    /// Weights widened to float32 once, products by OpenBLAS: independent of the kernels, not reproducible.
    case openblas
}
