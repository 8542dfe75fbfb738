extension Scheduler {
    /// Opens the lanes of a new epoch. Step ids and table sequences start at 1 again.
    ///
    /// - Parameter cost: what steps cost there; without it every lane and wave is used.
    package mutating func open(epoch: UInt64, lanes specifications: [LaneSpecification], cost: StepCost? = nil) {
        suspend()
        self.epoch = epoch
        self.cost = cost
        lanes = specifications.enumerated().map { Lane(index: $0.offset, $0.element) }
    }

    /// A planned change: the lanes close, nothing fails. What ran waits again and is replayed when lanes open; results
    /// of steps that are under way will be stale.
    package mutating func suspend() {
        for lane in lanes {
            for slot in lane.running {
                let (tenant, isEnding) = (sequences[slot].tenant, sequences[slot].ending)
                sequences[slot].leaveLane()
                if isEnding { vacate(slot) } else { enqueue(slot) }
                queue.stop(tenant: tenant)
            }
        }
        lanes = []
    }

    /// A home of the lane is lost: everything in it fails, its pages will not be used again in this epoch.
    package mutating func close(lane index: Int, code: String, message: String) -> [Output] {
        guard lanes.indices.contains(index), lanes[index].isOpen else { return [] }
        var outputs: [Output] = []
        for slot in lanes[index].running {
            if !sequences[slot].ending {
                outputs.append(
                    .failed(id: sequences[slot].id, RequestError(.failed, code: code, message: message)))
            }
            queue.stop(tenant: sequences[slot].tenant)
            vacate(slot)
        }
        lanes[index].isOpen = false
        lanes[index].running = []
        lanes[index].inFlight = [:]
        lanes[index].released = []
        lanes[index].pool = PagePool(lanes[index].pool.range)
        return outputs
    }

    /// Lanes with a step that was sent before `time`.
    package func lanes(waitingSince time: UInt64) -> [Int] {
        lanes.filter { $0.inFlight.values.contains { $0.sent < time } }.map(\.index)
    }
}
