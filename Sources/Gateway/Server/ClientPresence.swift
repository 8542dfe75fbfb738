import Synchronization

/// Whether the client of a connection is still there and takes its answer. Shared by the connection's channel handler,
/// which finds out, and the answer under way, which wants to know. Used on the connection's loop.
final class ClientPresence: Sendable {
    struct Watch: Sendable {
        /// The client has closed its side, or the connection is gone.
        let left: @Sendable () -> Void
        /// There is room for more of the answer again, or its head was sent.
        let writable: @Sendable () -> Void
    }

    private struct State {
        var hasLeft = false
        /// HTTP/1 has one request at a time.
        var watch: Watch?
    }

    private let state = Mutex(State())

    func leave() {
        let watch = state.withLock { state in
            state.hasLeft = true
            defer { state.watch = nil }
            return state.watch
        }
        watch?.left()
    }

    func becameWritable() {
        state.withLock { $0.watch }?.writable()
    }

    /// Says from now on what happens, and at once if the client has left already.
    func begin(_ watch: Watch) {
        let hasLeft = state.withLock { state in
            if !state.hasLeft { state.watch = watch }
            return state.hasLeft
        }
        if hasLeft { watch.left() }
    }

    func end() {
        state.withLock { $0.watch = nil }
    }
}
