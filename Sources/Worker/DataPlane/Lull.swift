import Glibc
import NIOCore
package import Transport

/// Says whether something has arrived on an event loop's sockets without going back to the loop, which costs several
/// times as much. Confined to the loop.
package struct SocketWatch {
    private var descriptors: [pollfd] = []
    private var connections: [ObjectIdentifier] = []

    package init() {}

    package mutating func add(_ connection: Connection) {
        guard let descriptor = connection.descriptor else { return }
        descriptors.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
        connections.append(ObjectIdentifier(connection))
    }

    package mutating func remove(_ connection: Connection) {
        guard let index = connections.firstIndex(of: ObjectIdentifier(connection)) else { return }
        descriptors.remove(at: index)
        connections.remove(at: index)
    }

    /// Also true where a connection has ended or the system cannot say: then the loop should look itself.
    package mutating func hasNews() -> Bool {
        descriptors.withUnsafeMutableBufferPointer { poll($0.baseAddress, nfds_t($0.count), 0) != 0 }
    }
}

/// The time from the end of a worker's work to the arrival of more.
///
/// Between the layers of a step, and between the steps of a small model, it is some tens of microseconds: shorter than the
/// system takes to put an idle processor to sleep and to wake it again. So where lulls have been short, the thread looks
/// for the next frame itself before the loop sleeps; where they have been long, or others want the processor, it does not.
package struct Lull {
    private static let longest = TimeAmount.microseconds(200)
    /// A yield that comes back later than this had somebody to yield to.
    private static let crowded = TimeAmount.microseconds(50)
    private static let crowdedPause = TimeAmount.milliseconds(1)

    private var began: NIODeadline?
    private var usualNanoseconds: Int64 = 0
    private var crowdedUntil = NIODeadline.uptimeNanoseconds(0)

    package init() {}

    /// There is work again.
    package mutating func ended() {
        guard let began else { return }
        self.began = nil
        // One long lull, such as a night, counts for a few short ones.
        let lasted = min((NIODeadline.now() - began).nanoseconds, 2 * Self.longest.nanoseconds)
        usualNanoseconds += (lasted - usualNanoseconds) / 4
    }

    /// There is no work. Returns when something arrives, or when waiting for it here makes no sense.
    package mutating func begin(_ watch: inout SocketWatch) {
        let start = NIODeadline.now()
        began = start
        guard usualNanoseconds < Self.longest.nanoseconds, start >= crowdedUntil else { return }
        var now = start
        while now - start < Self.longest, !watch.hasNews() {
            sched_yield()
            let later = NIODeadline.now()
            if later - now > Self.crowded {
                crowdedUntil = later + Self.crowdedPause
                return
            }
            now = later
        }
    }
}
