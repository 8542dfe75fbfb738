import ModelStore
import Placement
import Wire

extension CoordinatorConfiguration {
    /// Checks every value.
    /// - Returns: the longest sequence that can be served, in tokens.
    /// - Throws: `Failure` with the code `configuration_invalid`, or the topology's own.
    func checked() throws(Failure) -> Int {
        let shape = manifest.shape
        try check("port", port, 0...65_535)
        try check("pages", pagesPerWorker, 1...(1 << 24))
        // The rows of a step go from stage to stage in one frame; workers take 8,192 at most.
        let rows = (Frame.maximumPayloadBytes - (4 << 20)) / max(1, shape.hidden * MemoryLayout<Float>.size)
        try check("sequences per lane", maximumSequencesPerLane, 1...4096)
        try check("step tokens", stepTokens, 2...max(2, min(8192, rows)))
        try check("queue limit", queueLimit, 1...1_000_000)
        try check("queue tokens", queueTokenLimit, 1...(1 << 40))
        try check("queue timeout", queueTimeoutMilliseconds, 1...Int(Int32.max))
        try check("reader token limit", readerTokenLimit, 1...1_000_000)
        try check("streams per connection", streamsPerConnection, 1...65_536)
        try check("heartbeat timeout", heartbeatTimeoutMilliseconds, 1...Int(Int32.max))
        try check("step timeout", stepTimeoutMilliseconds, 1...Int(Int32.max))
        if case .even(let workers, _) = layout { try check("workers", workers, 1...65_536) }
        let topology: Topology
        do throws(TopologyError) {
            switch layout {
            case .topology(let fixed):
                try fixed.validate(for: shape)
                topology = fixed
            case .even(let workers, let stages):
                topology = try .even(shape: shape, workers: (0..<workers).map { "w\($0)" }, stages: stages)
            }
        } catch {
            throw Failure(code: error.code, message: error.message)
        }
        let wanted = contextLength ?? shape.contextLength
        try check("context", wanted, 2...max(2, shape.contextLength))
        let length = min(wanted, LanePages.tokens(pages: pagesPerWorker, lanes: topology.lanes))
        guard length >= 2 else {
            throw Failure(
                code: "configuration_invalid",
                message: "pages: \(pagesPerWorker) for \(topology.lanes.count) lanes leave none for a lane")
        }
        return length
    }

    private func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws(Failure) {
        guard range.contains(value) else {
            throw Failure(
                code: "configuration_invalid",
                message: "\(name): \(value), \(range.lowerBound) to \(range.upperBound) are allowed")
        }
    }
}
