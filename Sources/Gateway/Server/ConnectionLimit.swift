import HummingbirdCore
import Logging

/// Lets so many connections in at once, and says when others wait.
struct ConnectionLimit: AvailableConnectionsDelegate {
    private let maximum: Int
    private let logger: Logger
    private var count = 0
    /// Until half of them have gone.
    private var wasSaid = false

    init(_ maximum: Int, logger: Logger) {
        self.maximum = maximum
        self.logger = logger
    }

    mutating func connectionOpened() {
        count += 1
        guard count >= maximum, !wasSaid else { return }
        wasSaid = true
        logger.warning("as many HTTP connections as there may be; others wait", metadata: ["connections": "\(count)"])
    }

    mutating func connectionClosed() {
        count -= 1
        if count <= maximum / 2 { wasSaid = false }
    }

    func isAcceptingNewConnections() -> Bool { count < maximum }
}
