package import NIOCore
package import Transport

/// The turns of a data loop: work is done piece by piece, and between two pieces the sockets are read, both in one task for as
/// long as there is something to do.
///
/// Going back to the event loop costs several times what reading costs, and after a piece that has swept the caches tens of
/// microseconds: so the task reads and writes the connections' sockets itself, and goes back to sleep, soon where a socket was
/// full, and now and then for timers, handshakes and what other threads want. Confined to the loop.
package final class DataLoop {
    /// What a piece of work leaves.
    package enum Work {
        /// There was nothing to do.
        case none
        /// Something was done, and nothing is left.
        case last
        case more
    }

    /// The event loop's own matters wait as long as this,
    private static let longestTask = TimeAmount.milliseconds(20)
    /// and bytes that could not be written as long as this: only the event loop learns that a socket has room again.
    private static let longestTaskWithFullSockets = TimeAmount.milliseconds(1)

    package let eventLoop: any EventLoop
    /// Does the next piece of work and flushes what it sent. Set by the owner, and held until the loop is closed.
    package var work: () -> Work = { .none }
    private let turn: LoopTurn
    private var sockets = SocketWatch()
    private var lull = Lull()
    /// Work is under way, and what else there is will be found.
    private(set) var isRunning = false

    /// Nothing may be asked of it before the loop has opened it.
    package static func open(on eventLoop: any EventLoop) -> EventLoopFuture<NIOLoopBound<DataLoop>> {
        LoopTurn.open(on: eventLoop).map { turn in
            let loop = DataLoop(eventLoop: eventLoop, turn: turn.value)
            turn.value.onTurn = { loop.run() }
            return NIOLoopBound(loop, eventLoop: eventLoop)
        }
    }

    private init(eventLoop: any EventLoop, turn: LoopTurn) {
        self.eventLoop = eventLoop
        self.turn = turn
    }

    /// The connection's socket is read, and what was sent on it written, between pieces of work.
    package func add(_ connection: Connection) { sockets.add(connection) }
    package func remove(_ connection: Connection) { sockets.remove(connection) }

    /// Nothing is done afterwards.
    package func close() {
        turn.close()
        // The loop, its owner and the turn hold each other: a weak reference would cost every use of them.
        turn.onTurn = {}
        work = { .none }
    }

    /// There is work: it begins when everything that has arrived is read.
    package func schedule() {
        guard !isRunning else { return }
        isRunning = true
        eventLoop.assumeIsolated().execute { self.run() }
    }

    /// Hands to the sockets what was sent on any connection.
    package func flush() {
        for connection in sockets.connections { connection.flush() }
    }

    private func run() {
        // Until the end: what a piece of work makes possible is done here and needs no turn of its own.
        isRunning = true
        let began = NIODeadline.now()
        while true {
            let work = work()
            // What follows from a frame alone is written here.
            if work == .none { flush() } else { lull.ended() }
            if work == .more {
                if sockets.haveNews() { receive() }
            } else if lull.wait(for: &sockets) {
                receive()
            } else {
                isRunning = false
                return
            }
            if NIODeadline.now() - began > (sockets.areFull ? Self.longestTaskWithFullSockets : Self.longestTask) {
                turn.request()
                return
            }
        }
    }

    /// Reads the connections on which something has arrived.
    private func receive() {
        var index = 0
        while index < sockets.connections.count {
            if sockets.hasNews(index) { sockets.connections[index].receive() }
            index += 1
        }
    }
}
