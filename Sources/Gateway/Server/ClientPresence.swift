import Synchronization

/// Whether the client of a connection is still there. Shared by the connection's channel handler, which finds out, and
/// the request under way, which wants to know.
final class ClientPresence: Sendable {
    private struct State {
        var hasLeft = false
        /// What to do when the client leaves. HTTP/1 has one request at a time.
        var onLeave: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

    /// The client closed its side or the connection is gone.
    func leave() {
        let onLeave = state.withLock { state in
            state.hasLeft = true
            defer { state.onLeave = nil }
            return state.onLeave
        }
        onLeave?()
    }

    /// Calls `action` when the client leaves, at once if it has; not any more after `forget`.
    func whenLeft(_ action: @escaping @Sendable () -> Void) {
        let hasLeft = state.withLock { state in
            if !state.hasLeft { state.onLeave = action }
            return state.hasLeft
        }
        if hasLeft { action() }
    }

    func forget() {
        state.withLock { $0.onLeave = nil }
    }
}
