import Foundation
package import ModelStore
package import Placement

/// What a step costs a cell, in bytes of weights and keys that are read, by the roofline: arithmetic counts as the bytes
/// that could be read meanwhile. Decides whether another lane or wave pays for reading experts once more.
package struct StepCost: Sendable, Equatable {
    /// A row's multiply-adds take as long as reading this part of the weights it meets: measured with Q4_K, where 16 rows
    /// take about twice as long as one (docs/performance.md).
    static let rowShare = 1.0 / 16
    /// Gain below which another wave is not opened: each step has messages of its own.
    static let leastGain = 0.05

    /// Weights that each home reads for a step: all but the experts'.
    package var dense: Double
    /// The weights of all experts of all layers.
    package var experts: Double
    /// The part of the experts that one row meets.
    package var rowExperts: Double
    /// Keys and values of a token, in all layers.
    package var tokenKeys: Double
    /// Workers of a stage, among which its experts are divided.
    package var hosts: Double

    package init(dense: Double, experts: Double, rowExperts: Double, tokenKeys: Double, hosts: Double) {
        self.dense = dense
        self.experts = experts
        self.rowExperts = rowExperts
        self.tokenKeys = tokenKeys
        self.hosts = hosts
    }

    package init(manifest: Manifest, topology: Topology) {
        let shape = manifest.shape
        dense = Double(manifest.layers.reduce(manifest.head.bytes) { $0 + $1.dense.bytes })
        experts = Double(manifest.layers.reduce(0) { $0 + $1.experts.reduce(0) { $0 + $1.bytes } })
        rowExperts = Double(shape.expertsUsed) / Double(max(1, shape.experts))
        tokenKeys = Double(shape.layers * shape.keyValueHeads) * Double(shape.headDimension) * 4
        hosts = Double(topology.stages.map(\.members.count).max() ?? 1)
    }

    /// Experts that some of the rows meet.
    private func expertBytes(rows: Double) -> Double {
        experts * (1 - pow(1 - rowExperts, rows))
    }

    /// Time in which `rows` rows get their tokens when they go down `lanes` lanes at once, in equal parts.
    ///
    /// - Parameter context: positions that the rows attend to, altogether.
    package func period(rows: Double, context: Double, lanes: Double) -> Double {
        let own = dense * (1 + rows / lanes * Self.rowShare) + context / lanes * tokenKeys
        let shared = lanes * expertBytes(rows: rows / lanes) + rows * rowExperts * experts * Self.rowShare
        return own + shared / hosts
    }

    /// Whether one more lane makes the rows' tokens come sooner.
    package func paysForLane(rows: Int, context: Int, active lanes: Int) -> Bool {
        let (rows, context, lanes) = (Double(rows), Double(context), Double(lanes))
        return period(rows: rows, context: context, lanes: lanes + 1)
            < period(rows: rows, context: context, lanes: lanes)
    }

    /// Steps that a lane should have in flight: each is on its way through the stages as long as one is, so that another
    /// one pays as soon as a part of the rows goes through faster than all of them.
    package func waves(rows: Int, stages: Int) -> Int {
        var waves = 1
        while waves < min(stages, rows) {
            let now = period(rows: Double(rows) / Double(waves), context: 0, lanes: 1)
            let next = period(rows: Double(rows) / Double(waves + 1), context: 0, lanes: 1)
            guard next < now * (1 - Self.leastGain) else { break }
            waves += 1
        }
        return waves
    }
}
