package import ModelStore

/// Who holds what: the layers of every stage, and which worker of the stage holds which of its experts. Every worker
/// of a stage also holds the stage's dense weights; the first stage's the embedding, the last stage's the head.
package struct Topology: Sendable, Equatable {
    package struct Stage: Sendable, Equatable {
        package var layers: Range<Int>
        package var members: [Member]

        package init(layers: Range<Int>, members: [Member]) {
            self.layers = layers
            self.members = members
        }
    }

    package struct Member: Sendable, Equatable {
        package var name: String
        /// Experts of each layer of the stage, ascending. An expert may be with several members, and a member may hold
        /// none and only be a home.
        package var experts: [Int]

        package init(name: String, experts: [Int]) {
            self.name = name
            self.experts = experts
        }
    }

    package var stages: [Stage]

    package init(stages: [Stage]) {
        self.stages = stages
    }

    /// Every worker's name, stage by stage.
    package var workers: [String] {
        stages.flatMap { $0.members.map(\.name) }
    }

    /// The lanes: as many as the largest stage has workers, so that every worker is a home in at least one. A smaller
    /// stage's workers take turns.
    package var lanes: [[String]] {
        let count = stages.map(\.members.count).max() ?? 0
        guard stages.allSatisfy({ !$0.members.isEmpty }) else { return [] }
        return (0..<count).map { lane in
            stages.map { $0.members[lane % $0.members.count].name }
        }
    }

    /// The stage that a worker belongs to and its place in it.
    package func locate(_ worker: String) -> (stage: Int, member: Int)? {
        for (stage, value) in stages.enumerated() {
            if let member = value.members.firstIndex(where: { $0.name == worker }) {
                return (stage, member)
            }
        }
        return nil
    }
}

extension Topology {
    /// The longest name a worker may have, in bytes.
    package static let nameLimit = 64

    /// What a worker's name has or has not, in words that follow "a worker's name"; nil where it is good. Names stand in
    /// tables, in logs' names and beside the coordinator's.
    package static func problem(withName name: String) -> String? {
        let bytes = name.utf8.count
        guard (1...nameLimit).contains(bytes) else { return "has \(bytes) bytes, 1 to \(nameLimit) are allowed" }
        guard name != "coordinator",
            name.unicodeScalars.allSatisfy({ $0.value > 0x20 && $0.value != 0x7F && $0 != "/" })
        else { return "has no spaces, control characters or '/', and is not \"coordinator\"" }
        return nil
    }

    /// Checks that the topology is a complete copy of a model of this shape.
    /// - Throws: `TopologyError` for the first thing that is wrong, stages in order.
    package func validate(for shape: ModelShape) throws(TopologyError) {
        guard !stages.isEmpty else {
            throw TopologyError(code: "stages_empty", message: "topology: no stages; give at least one")
        }
        var nextLayer = 0
        var seen: [String: Int] = [:]
        for (index, stage) in stages.enumerated() {
            guard stage.layers.lowerBound == nextLayer, !stage.layers.isEmpty else {
                throw layerError(index, stage, expected: nextLayer, shape)
            }
            guard stage.layers.upperBound <= shape.layers else {
                throw TopologyError(
                    code: "layers_excess",
                    message:
                        "stage \(index): layers \(describe(stage.layers)), but the model has \(shape.layers) layers "
                        + "(0-\(shape.layers - 1))")
            }
            nextLayer = stage.layers.upperBound
            try validateMembers(of: stage, index, seen: &seen, shape)
        }
        guard nextLayer == shape.layers else {
            throw TopologyError(
                code: "layers_uncovered",
                message: "layers \(describe(nextLayer..<shape.layers)) belong to no stage: let the last stage end at "
                    + "\(shape.layers - 1)")
        }
    }

    private func layerError(_ index: Int, _ stage: Stage, expected: Int, _ shape: ModelShape) -> TopologyError {
        if stage.layers.isEmpty {
            return TopologyError(code: "layers_empty", message: "stage \(index): no layers; give it at least one")
        }
        let code = stage.layers.lowerBound < expected ? "layers_overlap" : "layers_uncovered"
        return TopologyError(
            code: code,
            message: "stage \(index): starts at layer \(stage.layers.lowerBound), but the next layer to be held is "
                + "\(expected); stages take the layers in order without gaps")
    }

    private func validateMembers(
        of stage: Stage, _ index: Int, seen: inout [String: Int], _ shape: ModelShape
    ) throws(TopologyError) {
        guard !stage.members.isEmpty else {
            throw TopologyError(code: "workers_empty", message: "stage \(index): no workers; give it at least one")
        }
        var held = [Bool](repeating: false, count: shape.experts)
        for member in stage.members {
            if let problem = Self.problem(withName: member.name) {
                throw TopologyError(code: "worker_name", message: "stage \(index): a worker's name \(problem)")
            }
            if let other = seen.updateValue(index, forKey: member.name) {
                let place = other == index ? "twice in stage \(index)" : "in stage \(other) and in stage \(index)"
                throw TopologyError(
                    code: "worker_duplicate",
                    message: "worker \"\(member.name)\" is named \(place); a worker belongs to one stage, once")
            }
            var last = -1
            for expert in member.experts {
                guard expert >= 0, expert < shape.experts else {
                    throw TopologyError(
                        code: "expert_unknown",
                        message: "stage \(index), worker \"\(member.name)\": expert \(expert), but the model has "
                            + "\(shape.experts) experts (0-\(shape.experts - 1))")
                }
                guard expert > last else {
                    throw TopologyError(
                        code: "expert_order",
                        message: "stage \(index), worker \"\(member.name)\": expert \(expert) after \(last); list each "
                            + "expert once, ascending")
                }
                last = expert
                held[expert] = true
            }
        }
        let missing = held.indices.filter { !held[$0] }
        guard missing.isEmpty else {
            let names = missing.map(String.init).joined(separator: ", ")
            let first = stage.members[0].name
            throw TopologyError(
                code: "expert_unheld",
                message: "stage \(index): nobody holds expert\(missing.count == 1 ? "" : "s") \(names); add "
                    + "\(missing.count == 1 ? "it" : "them") to a worker of the stage, for example \"\(first)\"")
        }
    }

    private func describe(_ layers: Range<Int>) -> String {
        layers.count == 1 ? "\(layers.lowerBound)" : "\(layers.lowerBound)-\(layers.upperBound - 1)"
    }
}
