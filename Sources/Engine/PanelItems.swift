/// What a product costs: panels of weights, of so many bytes in all, for some rows.
struct ProductSize {
    var panels: Int
    var bytes: Int
    var rows: Int

    /// Rows whose multiply-adds take as long as reading a weight from memory.
    private static let rowsPerRead = 16

    /// In bytes read from memory.
    var cost: Int { rows > 0 ? bytes + bytes / Self.rowsPerRead * rows : 0 }
}

/// The panels of some products, cut into items that threads take one after the other: long runs first, since memory gives
/// those fastest, then ever shorter ones, so that all threads end together (guided self-scheduling: Polychronopoulos and Kuck,
/// 1987).
struct PanelItems {
    struct Item: Equatable {
        let product: Int
        let panels: Range<Int>
    }

    /// Weights that an item reads at most: so few that a thread that is held up does not hold up the rest.
    static let mostBytes = 32 << 20
    /// What an item costs at least, in bytes read from memory.
    static let leastCost = 16 * 1024
    /// Panels that a kernel takes at once where rows are many (`TK_PANELS`).
    static let panelsTogether = 4

    /// In the order in which they are to be taken.
    private(set) var items: [Item] = []

    /// - Parameter cost: of all products together.
    mutating func cut(_ products: Int, cost: Int, threads: Int, size: (Int) -> ProductSize) {
        items.removeAll(keepingCapacity: true)
        var left = cost
        for product in 0..<products {
            let size = size(product)
            guard size.cost > 0, size.panels > 0 else { continue }
            let panelCost = max(size.cost / size.panels, 1)
            let mostPanels = Self.mostBytes / max(size.bytes / size.panels, 1)
            let leastPanels = (Self.leastCost + panelCost - 1) / panelCost
            var first = 0
            while first < size.panels {
                // Half of a thread's share of what is left.
                var count = max(min(left / (2 * threads) / panelCost, mostPanels), leastPanels, 1)
                if count > Self.panelsTogether { count -= count % Self.panelsTogether }
                let panels = first..<min(first + count, size.panels)
                items.append(Item(product: product, panels: panels))
                left -= panels.count * panelCost
                first = panels.upperBound
            }
        }
    }
}
