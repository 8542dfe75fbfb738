package import Wire

/// A worker process: its name, and the number it drew when it started, so that a restarted one is somebody else.
package struct PeerID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let name: String
    package let incarnation: UInt64

    package init(name: String, incarnation: UInt64) {
        self.name = name
        self.incarnation = incarnation
    }

    package static func < (left: PeerID, right: PeerID) -> Bool {
        (left.name, left.incarnation) < (right.name, right.incarnation)
    }

    package var description: String { "\(name)/\(incarnation)" }
}

/// One worker's view of a placement: what it holds, whom it sends to, and its part in every lane.
package struct PlacementView: Sendable, Equatable {
    package struct Member: Sendable, Equatable {
        package let peer: PeerID
        package let address: Address
        package let experts: Set<Int>
    }

    /// This worker's part in a lane of which it is a home.
    package struct LaneRole: Sendable, Equatable {
        /// The home before this one; nil in the first stage, whose steps come from the coordinator.
        package let previous: PeerID?
        /// The home after this one; nil in the last stage, which samples.
        package let next: PeerID?
    }

    package let epoch: UInt64
    package let own: PeerID
    /// Number of this worker's stage.
    package let stage: Int
    /// Layers of this worker's stage.
    package let layers: Range<Int>
    package let isFirstStage: Bool
    package let isLastStage: Bool
    /// Members of the stage, in the placement's order.
    package let members: [Member]
    /// This worker's place in `members`.
    package let ownIndex: Int
    /// By lane number; nil where another member is the lane's home.
    package let lanes: [LaneRole?]
    /// Workers that this one sends to: members that hold experts it lacks, and the next homes of its lanes.
    package let outbound: [PeerID: Address]
    /// Members that hold experts which this one lacks, in a fixed order.
    package let hosts: [PeerID]
    /// Members that hold an expert, by expert, in the order in which this worker asks them.
    private let holders: [[PeerID]]

    /// Experts of every layer of the stage that this worker holds.
    package var experts: Set<Int> { members[ownIndex].experts }

    /// - Parameters:
    ///   - layerCount: layers of the model
    ///   - expertCount: experts of each layer
    /// - Throws: `Failure` with code `placement_invalid` that names the stage, member or lane.
    package init(
        placement: ProtoPlacement, own: PeerID, layerCount: Int, expertCount: Int
    ) throws(Failure) {
        func invalid(_ message: String) -> Failure { Failure(code: "placement_invalid", message: message) }

        guard placement.epoch > 0 else { throw invalid("epoch 0, which stands for none") }
        var nextLayer = 0
        var found: (stage: Int, member: Int, layers: Range<Int>)?
        var stages: [[Member]] = []
        var names = Set<String>()
        for (stage, message) in placement.stages.enumerated() {
            let first = Int(message.firstLayer)
            let count = Int(message.layerCount)
            guard first == nextLayer, count > 0, count <= layerCount - first else {
                throw invalid(
                    "stage \(stage): layers \(first)+\(count) do not continue at \(nextLayer) of \(layerCount)")
            }
            nextLayer = first + count
            var members: [Member] = []
            var held = Set<Int>()
            for (index, member) in message.members.enumerated() {
                guard names.insert(member.name).inserted else {
                    throw invalid("worker '\(member.name)' is named twice")
                }
                let address: Address
                do {
                    address = try Address(parsing: member.dataAddress)
                } catch {
                    throw invalid("worker '\(member.name)': \(error.message)")
                }
                let experts = Set(member.experts.map(Int.init))
                if let wrong = experts.first(where: { $0 >= expertCount }) {
                    throw invalid("worker '\(member.name)': expert \(wrong) of \(expertCount)")
                }
                held.formUnion(experts)
                let peer = PeerID(name: member.name, incarnation: member.incarnation)
                if peer == own {
                    found = (stage, index, first..<nextLayer)
                }
                members.append(Member(peer: peer, address: address, experts: experts))
            }
            guard held.count == expertCount else {
                throw invalid(
                    "stage \(stage): \(expertCount - held.count) of \(expertCount) experts are held by nobody")
            }
            stages.append(members)
        }
        guard nextLayer == layerCount else { throw invalid("\(nextLayer) of \(layerCount) layers are placed") }
        guard let found else { throw invalid("worker \(own) is not in the placement") }

        let members = stages[found.stage]
        var outbound: [PeerID: Address] = [:]
        var holders: [[PeerID]] = []
        for expert in 0..<expertCount {
            // Itself first. Of several other holders each home starts with another one, so that homes spread.
            let holding = members.filter { $0.experts.contains(expert) }
            if holding.contains(where: { $0.peer == own }) {
                holders.append([own])
                continue
            }
            let start = found.member % holding.count
            let order = Array(holding[start...] + holding[..<start])
            for member in order { outbound[member.peer] = member.address }
            holders.append(order.map(\.peer))
        }
        var lanes: [LaneRole?] = []
        for (lane, message) in placement.lanes.enumerated() {
            guard message.workers.count == stages.count else {
                throw invalid("lane \(lane) has \(message.workers.count) homes for \(stages.count) stages")
            }
            var path: [Member] = []
            for (stage, name) in message.workers.enumerated() {
                guard let member = stages[stage].first(where: { $0.peer.name == name }) else {
                    throw invalid("lane \(lane): '\(name)' is not in stage \(stage)")
                }
                path.append(member)
            }
            guard path[found.stage].peer == own else {
                lanes.append(nil)
                continue
            }
            let next = found.stage + 1 < path.count ? path[found.stage + 1] : nil
            if let next { outbound[next.peer] = next.address }
            lanes.append(
                LaneRole(previous: found.stage > 0 ? path[found.stage - 1].peer : nil, next: next?.peer))
        }
        self.epoch = placement.epoch
        self.own = own
        self.stage = found.stage
        self.layers = found.layers
        self.isFirstStage = found.stage == 0
        self.isLastStage = found.stage == stages.count - 1
        self.members = members
        self.ownIndex = found.member
        self.lanes = lanes
        self.outbound = outbound
        self.holders = holders
        self.hosts = Set(holders.joined()).subtracting([own]).sorted()
    }

    /// Who computes `expert` for this home: itself when it holds the expert, else the first reachable holder; the order
    /// of holders is the placement's, rotated by this home's index. Any choice gives the same bits.
    package func host(of expert: Int, reachable: (PeerID) -> Bool) -> PeerID? {
        guard holders.indices.contains(expert) else { return nil }
        return holders[expert].first { $0 == own || reachable($0) }
    }

    /// The part of this worker in `lane`, nil if it has none.
    package func role(inLane lane: Int) -> LaneRole? {
        lanes.indices.contains(lane) ? lanes[lane] : nil
    }
}
