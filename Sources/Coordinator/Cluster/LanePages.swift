import Placement

/// Gives each lane pages of its own. Page ids count the pages of a worker; lanes that share no worker may use the same
/// ids, lanes that share one may not, since each numbers its pages by itself.
package enum LanePages {
    /// - Returns: a range of page ids for each lane, all of the same length.
    package static func divide(pages: Int, among lanes: [[String]]) -> [Range<UInt32>] {
        var slots: [Int] = []
        for (index, lane) in lanes.enumerated() {
            let homes = Set(lane)
            let taken = Set((0..<index).filter { !homes.isDisjoint(with: lanes[$0]) }.map { slots[$0] })
            // One more slot than neighbours is always enough.
            slots.append((0...taken.count).first { !taken.contains($0) } ?? taken.count)
        }
        let share = UInt32(clamping: pages / ((slots.max() ?? 0) + 1))
        return slots.map { slot in
            let start = UInt32(clamping: slot) * share
            return start..<start + share
        }
    }

    /// Tokens of the longest sequence that every lane has pages for.
    package static func tokens(pages: Int, lanes: [[String]]) -> Int {
        (divide(pages: pages, among: lanes).map(\.count).min() ?? 0) * Scheduler.pageTokens
    }
}
