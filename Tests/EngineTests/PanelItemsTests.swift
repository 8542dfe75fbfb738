import TestSupport
import Testing

@testable import Engine

@Suite struct PanelItemsTests {
    private func cut(_ sizes: [ProductSize], threads: Int) -> [PanelItems.Item] {
        var items = PanelItems()
        items.cut(sizes.count, cost: sizes.reduce(0) { $0 + $1.cost }, threads: threads) { sizes[$0] }
        return items.items
    }

    /// What an item costs.
    private func cost(_ item: PanelItems.Item, _ sizes: [ProductSize]) -> Int {
        let size = sizes[item.product]
        return size.cost / size.panels * item.panels.count
    }

    @Test func everyPanelIsInOneItem() {
        let seed: UInt64 = 11
        var random = SeededGenerator(seed: seed)
        for _ in 0..<500 {
            let threads = Int.random(in: 1...64, using: &random)
            let sizes = (0..<Int.random(in: 0...9, using: &random)).map { _ in
                let panels = Int.random(in: 0...2100, using: &random)
                return ProductSize(
                    panels: panels, bytes: panels * Int.random(in: 1...1 << 20, using: &random),
                    rows: Int.random(in: 0...300, using: &random))
            }
            let items = cut(sizes, threads: threads)
            for (product, size) in sizes.enumerated() {
                let covered = items.filter { $0.product == product }.flatMap(\.panels)
                #expect(covered == (size.rows > 0 ? Array(0..<size.panels) : []), "seed \(seed)")
            }
            #expect(items.map(\.product) == items.map(\.product).sorted(), "seed \(seed)")
        }
    }

    /// Two experts of 8x22B, gate and up, one row: runs of 32 MiB, then shorter ones.
    @Test func itemsGetShorterTowardsTheEnd() throws {
        let panelBytes = 2 * 16 * 6144 * 9 / 16
        let sizes = Array(repeating: ProductSize(panels: 1024, bytes: 1024 * panelBytes, rows: 1), count: 2)
        let items = cut(sizes, threads: 2)
        #expect(items.allSatisfy { $0.panels.count * panelBytes <= PanelItems.mostBytes })
        #expect(items.prefix(3).allSatisfy { $0.panels.count == 300 })
        let tail = items.suffix(12).map(\.panels.count)
        #expect(tail == tail.sorted(by: >))
        let last = try #require(items.last)
        #expect(cost(last, sizes) <= 2 * panelBytes)
    }

    /// However many threads there are, the last one to end has not much more than its share.
    @Test(arguments: [2, 3, 16, 64]) func threadsEndTogether(threads: Int) {
        let panelBytes = 16 * 16384 * 9 / 16
        let sizes = (0..<8).map { ProductSize(panels: 384, bytes: 384 * panelBytes, rows: 1 + $0) }
        var loads = Array(repeating: 0, count: threads)
        for item in cut(sizes, threads: threads) {
            // Whoever is done first takes the next one.
            let next = loads.indices.min { loads[$0] < loads[$1] } ?? 0
            loads[next] += cost(item, sizes)
        }
        let share = loads.reduce(0, +) / threads
        #expect((loads.max() ?? 0) - share <= 2 * panelBytes)
    }

    @Test func smallProductsAreNotCutBelowTheirWorth() {
        let sizes = [ProductSize(panels: 16, bytes: 16 * 1024, rows: 1)]
        #expect(cut(sizes, threads: 4).map(\.panels) == [0..<16])
    }
}
