package import ModelStore

extension Topology {
    /// Deals a model evenly: layers and workers in runs over the stages (the first stages take one more where it does
    /// not divide), experts round over the workers of a stage, so that a worker's experts are as many as its
    /// neighbour's or one fewer.
    /// - Throws: `TopologyError` when there are too few workers, or more than a stage has experts for.
    package static func even(
        shape: ModelShape, workers: [String], stages count: Int
    ) throws(TopologyError) -> Topology {
        guard count >= 1 else {
            throw TopologyError(code: "stages_empty", message: "stages: \(count), give at least 1")
        }
        guard count <= shape.layers else {
            throw TopologyError(
                code: "stages_excess",
                message: "stages: \(count), but the model has \(shape.layers) layers; at most \(shape.layers) stages")
        }
        guard workers.count >= count else {
            throw TopologyError(
                code: "workers_too_few",
                message: "workers: \(workers.count) for \(count) stages; every stage needs at least one, so give "
                    + "\(count) workers or at most \(workers.count) stages")
        }
        guard (workers.count - 1) / count < shape.experts else {
            throw TopologyError(
                code: "workers_too_many",
                message: "workers: \(workers.count) for \(count) stages of \(shape.experts) experts; a worker would "
                    + "hold none, so give at most \(count * shape.experts) workers or more stages")
        }
        let layers = split(shape.layers, into: count)
        let members = split(workers.count, into: count)
        let topology = Topology(
            stages: (0..<count).map { stage in
                let names = workers[members[stage]]
                return Stage(
                    layers: layers[stage],
                    members: names.enumerated().map { index, name in
                        Member(
                            name: name, experts: Array(stride(from: index, to: shape.experts, by: names.count)))
                    })
            })
        try topology.validate(for: shape)
        return topology
    }

    /// `total` cut into `parts` runs, the longer ones first.
    private static func split(_ total: Int, into parts: Int) -> [Range<Int>] {
        var start = 0
        return (0..<parts).map { part in
            let length = total / parts + (part < total % parts ? 1 : 0)
            defer { start += length }
            return start..<start + length
        }
    }
}
