import Glibc
import NIOCore
import Transport

/// Says whether something has arrived on connections' sockets without going back to their event loop. Confined to the loop.
struct SocketWatch {
    private(set) var connections: [Connection] = []
    /// In the connections' order. The system passes over those without a socket.
    private var descriptors: [pollfd] = []

    mutating func add(_ connection: Connection) {
        connections.append(connection)
        descriptors.append(pollfd(fd: connection.descriptor ?? -1, events: Int16(POLLIN), revents: 0))
    }

    mutating func remove(_ connection: Connection) {
        guard let index = connections.firstIndex(where: { $0 === connection }) else { return }
        connections.remove(at: index)
        descriptors.remove(at: index)
    }

    /// Also true where a connection has ended or the system cannot say.
    mutating func haveNews() -> Bool {
        descriptors.withUnsafeMutableBufferPointer { poll($0.baseAddress, nfds_t($0.count), 0) != 0 }
    }

    /// Whether bytes wait to be written: for room in a socket, when what was sent has been flushed.
    var areFull: Bool { connections.contains { $0.outgoingBytes > 0 } }

    /// Whether something had arrived on the connection at `index` when ``haveNews()`` looked.
    func hasNews(_ index: Int) -> Bool { descriptors[index].revents != 0 }
}

/// The time from the end of a worker's work to the arrival of more.
///
/// Between the layers of a step, and between the steps of a small model, it is some tens of microseconds: shorter than the
/// system takes to put an idle processor to sleep and to wake it again. So where lulls have been short, the thread looks
/// for the next frame itself before the loop sleeps; where they have been long, or others want the processor, it does not.
struct Lull {
    private static let longest = TimeAmount.microseconds(200)
    /// A yield that comes back later than this had somebody to yield to.
    private static let crowded = TimeAmount.microseconds(50)
    private static let crowdedPause = TimeAmount.milliseconds(1)
    /// Looks between two yields, each a system call too.
    private static let looks = 4

    private var began: NIODeadline?
    private var usualNanoseconds: Int64 = 0
    private var crowdedUntil = NIODeadline.uptimeNanoseconds(0)

    /// There is work again.
    mutating func ended() {
        guard let began else { return }
        self.began = nil
        // One long lull, such as a night, counts for a few short ones.
        let lasted = min((NIODeadline.now() - began).nanoseconds, 2 * Self.longest.nanoseconds)
        usualNanoseconds += (lasted - usualNanoseconds) / 4
    }

    /// There is no work. Returns true when something has arrived, and false when waiting for it here makes no sense.
    mutating func wait(for sockets: inout SocketWatch) -> Bool {
        var now = NIODeadline.now()
        let start = began ?? now
        began = start
        guard usualNanoseconds < Self.longest.nanoseconds, now >= crowdedUntil else { return false }
        while now - start < Self.longest {
            for _ in 0..<Self.looks where sockets.haveNews() { return true }
            sched_yield()
            let later = NIODeadline.now()
            if later - now > Self.crowded {
                crowdedUntil = later + Self.crowdedPause
                return false
            }
            now = later
        }
        return false
    }
}
