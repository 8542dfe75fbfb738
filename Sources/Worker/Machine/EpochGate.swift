/// Decides by epoch what happens to a frame: older ones are dropped, those of the current epoch pass, and newer ones wait
/// for their placement, as long as there is room.
package struct EpochGate<Waiting> {
    package enum Decision: Equatable {
        case pass
        case stale
        case held
        /// Too much waits already. The sender's connection is closed, so that nothing is lost unnoticed.
        case full
    }

    /// Frames of a placement that everybody else has already: the few that arrive while the last worker connects.
    package static var frameLimit: Int { 256 }
    /// Two of the largest frames.
    package static var byteLimit: Int { 128 << 20 }

    /// The placement that holds, or held last; 0 before the first.
    package private(set) var epoch: UInt64 = 0
    private var isActive = false
    private var waiting: [(epoch: UInt64, bytes: Int, frame: Waiting)] = []
    private var waitingBytes = 0

    package init() {}

    package mutating func admit(_ frame: Waiting, epoch: UInt64, bytes: Int) -> Decision {
        guard epoch > self.epoch else { return epoch == self.epoch && isActive ? .pass : .stale }
        guard waiting.count < Self.frameLimit, bytes <= Self.byteLimit - waitingBytes else { return .full }
        waiting.append((epoch, bytes, frame))
        waitingBytes += bytes
        return .held
    }

    /// The placement of `epoch` holds from now on: returns its frames, in the order in which they came. Those of older
    /// epochs are dropped, those of newer ones go on waiting. A new coordinator may begin with a lower epoch.
    package mutating func activate(_ epoch: UInt64) -> [Waiting] {
        self.epoch = epoch
        isActive = true
        let due = waiting.filter { $0.epoch == epoch }.map(\.frame)
        waiting.removeAll { $0.epoch <= epoch }
        waitingBytes = waiting.reduce(0) { $0 + $1.bytes }
        return due
    }

    /// Forgets what came from a sender that is gone: nobody waits for it, and under a later coordinator its epoch may be
    /// another placement's.
    package mutating func drop(where isGone: (Waiting) -> Bool) {
        waiting.removeAll { isGone($0.frame) }
        waitingBytes = waiting.reduce(0) { $0 + $1.bytes }
    }

    /// The placement holds no longer, and the next one does not hold yet.
    package mutating func fence() {
        isActive = false
    }
}
