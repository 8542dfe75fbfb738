extension Scheduler {
    /// Opens the lanes of a new epoch. Step ids and table sequences start at 1 again.
    package mutating func open(epoch: UInt64, lanes specifications: [LaneSpecification]) {
        suspend()
        self.epoch = epoch
        lanes = specifications.enumerated().map { Lane(index: $0.offset, $0.element) }
    }

    /// A planned change: the lanes close, nothing fails. What ran goes back to the front of the queue and is replayed
    /// when lanes open again; results of steps that are under way will be stale.
    package mutating func suspend() {
        for lane in lanes {
            for id in lane.running { sendBack(id) }
        }
        lanes = []
    }

    /// A home of the lane is lost: everything in it fails, its pages will not be used again in this epoch.
    package mutating func close(lane index: Int, code: String, message: String) -> [Output] {
        guard lanes.indices.contains(index), lanes[index].isOpen else { return [] }
        lanes[index].isOpen = false
        var outputs: [Output] = []
        for id in lanes[index].running {
            guard let sequence = sequences[id] else { continue }
            if !sequence.ending { outputs.append(.failed(id: id, code: code, message: message)) }
            sequences[id] = nil
        }
        lanes[index].running = []
        lanes[index].inFlight = [:]
        lanes[index].released = []
        lanes[index].free = []
        return outputs
    }

    /// Lanes with a step that was sent before `time`.
    package func lanes(waitingSince time: UInt64) -> [Int] {
        lanes.filter { $0.inFlight.values.contains { $0.sent < time } }.map(\.index)
    }

    /// Makes a sequence wait for a lane again. One that has ended is forgotten instead.
    mutating func sendBack(_ id: UInt64) {
        guard let sequence = sequences[id] else { return }
        guard !sequence.ending else {
            sequences[id] = nil
            return
        }
        sequences[id]?.leaveLane()
        sequences[id]?.waitingSince = now
        replays.insert(id, at: replays.firstIndex { $0 > id } ?? replays.endIndex)
        waitingCount += 1
    }
}
