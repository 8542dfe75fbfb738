package import NIOCore
import NIOPosix
package import Wire

/// Dials peers.
package enum Connector {
    /// Dials a peer and shakes hands. The connection lives on `eventLoop`.
    ///
    /// - Parameter makeDelegate: Called on the loop when the handshake is done, before the first frame is delivered.
    /// - Returns: The connection; a failure is always a `Failure`: `connect_failed`, what the handshake gave, or what the
    ///   peer said.
    package static func dial(
        host: String,
        port: Int,
        on eventLoop: any EventLoop,
        identity: LocalIdentity,
        makeDelegate: @escaping @Sendable (Connection) -> any ConnectionDelegate
    ) -> EventLoopFuture<Connection> {
        let promise = eventLoop.makePromise(of: Connection.self)
        guard (1...65_535).contains(port) else {
            promise.fail(Failure(code: "address_invalid", message: "port is \(port), expected 1 to 65535"))
            return promise.futureResult
        }
        ClientBootstrap(group: eventLoop)
            .connectTimeout(identity.limits.handshakeTimeout)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.recvAllocator, value: ConnectionBootstrap.receiveAllocator)
            .channelInitializer { channel in
                ConnectionBootstrap.initialize(
                    channel, side: .dialler, identity: identity, refusal: nil,
                    owner: {
                        ConnectionHandler.Owner(
                            accept: { makeDelegate($0) }, finished: { promise.completeWith($0.mapError { $0 }) })
                    }
                )
            }
            .connect(host: host, port: port)
            .whenFailure { error in
                promise.fail(refusal(host: host, port: port, error))
            }
        return promise.futureResult
    }

    /// As ``dial(host:port:on:identity:makeDelegate:)``, for callers that can wait.
    package static func connect(
        host: String,
        port: Int,
        on eventLoop: any EventLoop,
        identity: LocalIdentity,
        makeDelegate: @escaping @Sendable (Connection) -> any ConnectionDelegate
    ) async throws(Failure) -> Connection {
        do {
            return try await dial(
                host: host, port: port, on: eventLoop, identity: identity, makeDelegate: makeDelegate
            ).get()
        } catch let failure as Failure {
            throw failure
        } catch {
            throw refusal(host: host, port: port, error)
        }
    }

    private static func refusal(host: String, port: Int, _ error: any Error) -> Failure {
        Failure(
            code: "connect_failed", message: "cannot connect to \(host):\(port): \(systemMessage(of: error))")
    }
}

/// What both kinds of channel have in common.
enum ConnectionBootstrap {
    /// Starts small for the many idle client connections, and grows to hold several tensor frames in one read.
    static var receiveAllocator: AdaptiveRecvByteBufferAllocator {
        AdaptiveRecvByteBufferAllocator(minimum: 1024, initial: 16_384, maximum: 262_144)
    }

    static func initialize(
        _ channel: any Channel,
        side: ConnectionStateMachine.Side,
        identity: LocalIdentity,
        refusal: Failure?,
        owner: () -> ConnectionHandler.Owner
    ) -> EventLoopFuture<Void> {
        channel.eventLoop.makeCompletedFuture {
            let machine = ConnectionStateMachine(side: side, local: identity, now: channel.eventLoop.now)
            try channel.pipeline.syncOperations.addHandler(
                ConnectionHandler(machine: machine, owner: owner(), refusal: refusal)
            )
        }
    }
}
