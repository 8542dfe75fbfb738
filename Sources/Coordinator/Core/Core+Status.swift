import Placement
import SwiftProtobuf
import Wire

extension Core {
    func status() -> ProtoStatusResponse {
        .with {
            $0.coordinator = configuration.name
            $0.ready = scheduler.hasOpenLane
            $0.epoch = membership.epoch
            $0.model = configuration.modelName
            $0.workers = membership.members.values.sorted { $0.registration.name < $1.registration.name }.map(status)
            $0.lanes = scheduler.lanes.map(status)
            $0.requests = .with {
                $0.running = UInt32(clamping: scheduler.runningCount)
                $0.waiting = UInt32(clamping: scheduler.waitingCount)
                $0.finished = counts.finished
                $0.failed = counts.failed
                $0.cancelled = counts.cancelled
                $0.queueLimit = UInt32(clamping: configuration.queueLimit)
            }
            $0.version = Coordinator.version
            $0.contextLength = UInt32(clamping: check.contextLength)
        }
    }

    private func status(of member: Membership.Member) -> ProtoWorkerStatus {
        let name = member.registration.name
        return .with {
            $0.name = name
            $0.incarnation = member.registration.incarnation
            $0.state = member.state.rawValue
            $0.dataAddress = member.registration.dataAddress
            $0.threads = member.registration.threads
            $0.processID = member.registration.processID
            $0.weightBytes = member.weightBytes
            $0.pagesTotal = member.pages
            $0.pagesUsed = UInt32(
                clamping: scheduler.lanes.filter { $0.isOpen && $0.homes.contains(name) }
                    .reduce(0) { $0 + $1.pool.usedCount })
            $0.accounting = member.accounting
            $0.metricsAddress = member.registration.metricsAddress
            guard let topology = membership.placed?.topology, let (stage, index) = topology.locate(name) else { return }
            let layers = topology.stages[stage].layers
            $0.stage = UInt32(clamping: stage)
            $0.firstLayer = UInt32(clamping: layers.lowerBound)
            $0.layerCount = UInt32(clamping: layers.count)
            $0.experts = topology.stages[stage].members[index].experts.map { UInt32(clamping: $0) }
        }
    }

    private func status(of lane: Scheduler.Lane) -> ProtoLaneStatus {
        .with {
            $0.index = UInt32(clamping: lane.index)
            $0.workers = lane.homes
            $0.sequences = UInt32(clamping: lane.runningCount)
            $0.pagesTotal = UInt32(clamping: lane.pool.count)
            $0.pagesUsed = lane.isOpen ? UInt32(clamping: lane.pool.usedCount) : 0
            $0.steps = lane.stepsSent
            $0.state = lane.isOpen ? "open" : "closed"
        }
    }
}
