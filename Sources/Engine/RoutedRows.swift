package import ModelStore

/// The experts of one row, best first, and their weights, which sum to 1 but for rounding.
package struct Route: Sendable, Equatable {
    package var experts: [Int]
    package var weights: [Float]

    package init(experts: [Int], weights: [Float]) {
        self.experts = experts
        self.weights = weights
    }
}

/// What the router says of the rows of a step: their experts, and the rows as those experts take them.
///
/// Made anew or used again by `Engine.route`; confined to the engine's thread.
package final class RoutedRows {
    package private(set) var rows = 0
    /// Experts chosen for each row.
    package private(set) var expertsUsed = 0
    package private(set) var format = ActivationFormat.f32
    /// Bytes of one encoded row, a multiple of 4.
    package private(set) var rowBytes = 0
    private let memory = Scratch()
    private var experts: [Int32] = []
    private var weights: [Float] = []

    package init() {}

    /// The encoded rows, one after the other: normalised, in `format` (`ActivationFormat` has the layout).
    package var encoded: UnsafeMutableRawPointer {
        memory.reserve(rows * rowBytes)
    }

    /// One encoded row of `rowBytes` bytes.
    package func encodedRow(_ row: Int) -> UnsafeRawPointer {
        precondition(row >= 0 && row < rows, "row outside the step")
        return UnsafeRawPointer(encoded + row * rowBytes)
    }

    /// Whether the row goes to experts: in the last layer only those do that something is read from afterwards.
    package func isRouted(_ row: Int) -> Bool {
        expertsUsed > 0 && experts[row * expertsUsed] >= 0
    }

    /// The expert at place `place` (0 is the best) of a row; -1 where the row goes to none.
    package func expert(row: Int, place: Int) -> Int {
        Int(experts[row * expertsUsed + place])
    }

    /// The weight of the expert at place `place` of a row.
    package func weight(row: Int, place: Int) -> Float {
        weights[row * expertsUsed + place]
    }

    /// The experts of all rows, `expertsUsed` for each, best first, and their weights.
    package var choices: (experts: ArraySlice<Int32>, weights: ArraySlice<Float>) {
        (experts.prefix(rows * expertsUsed), weights.prefix(rows * expertsUsed))
    }

    /// The weights of a row, best first.
    package func withWeights<Result>(row: Int, _ body: (UnsafeBufferPointer<Float>) throws -> Result) rethrows -> Result
    {
        try weights.withUnsafeBufferPointer {
            try body(UnsafeBufferPointer(rebasing: $0[row * expertsUsed..<(row + 1) * expertsUsed]))
        }
    }

    /// One row's route, for reports.
    package func route(_ row: Int) -> Route {
        Route(
            experts: (0..<expertsUsed).map { expert(row: row, place: $0) },
            weights: (0..<expertsUsed).map { weight(row: row, place: $0) })
    }

    func reset(rows: Int, expertsUsed: Int, format: ActivationFormat, rowBytes: Int) {
        self.rows = rows
        self.expertsUsed = expertsUsed
        self.format = format
        self.rowBytes = rowBytes
        let count = rows * expertsUsed
        if experts.count < count {
            experts = Array(repeating: 0, count: count)
            weights = Array(repeating: 0, count: count)
        }
    }

    /// No row goes to experts, until some are given them.
    func leaveOut() {
        for index in 0..<rows * expertsUsed {
            experts[index] = -1
            weights[index] = 0
        }
    }

    func withChoices(_ body: (_ experts: UnsafeMutablePointer<Int32>, _ weights: UnsafeMutablePointer<Float>) -> Void) {
        experts.withUnsafeMutableBufferPointer { experts in
            weights.withUnsafeMutableBufferPointer { weights in
                guard let experts = experts.baseAddress, let weights = weights.baseAddress else { return }
                body(experts, weights)
            }
        }
    }
}
