/// How many rows an item may have so that it takes about 5 ms, from what earlier items took.
struct Pace {
    private static let nanosecondsPerItem = 5_000_000.0
    /// Below this many rows an item is the reading of its weights, and cutting it only reads them more often.
    static let fewestLayerRows = 8
    static let fewestExpertRows = 16
    static let mostRows = 1_024

    /// Rows of a layer's item and of an expert's.
    private(set) var layerRows = 32
    private(set) var expertRows = 64
    private var layerNanosecondsPerRow: Double?
    private var expertNanosecondsPerRow: Double?

    mutating func layerTook(nanoseconds: Int64, rows: Int) {
        guard rows >= Self.fewestLayerRows else { return }
        layerNanosecondsPerRow = Self.smoothed(layerNanosecondsPerRow, Double(nanoseconds) / Double(rows))
        layerRows = Self.rows(layerNanosecondsPerRow, fewest: Self.fewestLayerRows)
    }

    mutating func expertTook(nanoseconds: Int64, rows: Int) {
        guard rows >= Self.fewestExpertRows else { return }
        expertNanosecondsPerRow = Self.smoothed(expertNanosecondsPerRow, Double(nanoseconds) / Double(rows))
        expertRows = Self.rows(expertNanosecondsPerRow, fewest: Self.fewestExpertRows)
    }

    private static func smoothed(_ old: Double?, _ new: Double) -> Double {
        old.map { 0.8 * $0 + 0.2 * new } ?? new
    }

    private static func rows(_ nanosecondsPerRow: Double?, fewest: Int) -> Int {
        guard let nanosecondsPerRow, nanosecondsPerRow > 0 else { return fewest }
        // At most 5e6 rows, and never so few that the weights are all that an item reads.
        return Int(min(max(nanosecondsPerItem / nanosecondsPerRow, Double(fewest)), Double(mostRows)))
    }
}
