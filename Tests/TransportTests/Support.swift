import Logging
import NIOCore
import NIOPosix
import Synchronization
import Testing
import Wire

@testable import Transport

extension LocalIdentity {
    /// A peer of the tests. Data roles agree on numerics 1 and digest 07….
    static func test(
        _ role: ProtoHello.Role = .client, name: String = "peer", limits: ConnectionLimits = ConnectionLimits()
    ) -> LocalIdentity {
        LocalIdentity(
            role: role, name: name, incarnation: 42, numericsVersion: 1,
            manifestDigest: [UInt8](repeating: 7, count: 32), features: ["a", "b"], rowCredits: 512, limits: limits
        )
    }
}

let everyRole: Set<ProtoHello.Role> = [.client, .workerControl, .coordinatorData, .workerData]

extension Frame {
    var bytes: ByteBuffer {
        var buffer = ByteBuffer()
        write(into: &buffer)
        return buffer
    }

    var failureCode: String? { (try? message(ProtoFailure.self))?.code }
}

/// What a connection told its delegate, as lines.
final class Recorder: ConnectionDelegate, Sendable {
    private let state = Mutex<(lines: [String], frames: [Frame], ending: Failure?)>(([], [], nil))
    let events: AsyncStream<String>
    private let continuation: AsyncStream<String>.Continuation
    private let react: @Sendable (Frame, Connection) -> Void

    init(react: @escaping @Sendable (Frame, Connection) -> Void = { _, _ in }) {
        self.react = react
        (events, continuation) = AsyncStream.makeStream()
    }

    var lines: [String] { state.withLock { $0.lines } }
    var frames: [Frame] { state.withLock { $0.frames } }
    var ending: Failure? { state.withLock { $0.ending } }

    func received(_ frame: Frame, on connection: Connection) {
        state.withLock { $0.frames.append(frame) }
        note("received \(frame.kind.name)")
        react(frame, connection)
    }

    func readComplete(on connection: Connection) {
        note("readComplete")
    }

    func writabilityChanged(_ writable: Bool, on connection: Connection) {
        note("writable \(writable)")
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        state.withLock { $0.ending = reason }
        note("closed \(reason?.code ?? "nil")")
        continuation.finish()
    }

    private func note(_ line: String) {
        state.withLock { $0.lines.append(line) }
        continuation.yield(line)
    }

    /// The reason of the closing, once it has come.
    func closing() async -> String? {
        for await line in events where line.hasPrefix("closed") { return String(line.dropFirst(7)) }
        return nil
    }
}

let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
