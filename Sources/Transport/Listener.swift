package import Logging
package import NIOCore
import NIOPosix
import Synchronization
package import Wire

/// A port that peers dial.
package final class Listener: Sendable {
    /// The address that was really bound, with its real port.
    package let address: SocketAddress
    private let channel: any Channel

    private init(channel: any Channel, address: SocketAddress) {
        self.channel = channel
        self.address = address
    }

    /// Binds a port and takes connections until ``close()``.
    ///
    /// - Parameters:
    ///   - port: 0 picks a free one; see ``address``.
    ///   - acceptLoop: Accepts connections.
    ///   - childLoop: Where the connections live: one loop, or a group that they are spread over.
    ///   - roles: Roles that may dial here.
    ///   - insecureNetwork: There is no encryption, so only loopback addresses are bound unless this is set.
    ///   - maximumConnections: Further ones are turned away with `too_many_connections`.
    ///   - accept: Takes or refuses a peer whose hello was good; called on the connection's loop. What it sends arrives
    ///     after the welcome.
    /// - Throws: `address_invalid`, `insecure_network` or `bind_failed`.
    package static func bind(
        host: String,
        port: Int,
        acceptLoop: any EventLoopGroup,
        childLoop: any EventLoopGroup,
        identity: LocalIdentity,
        roles: Set<ProtoHello.Role>,
        insecureNetwork: Bool = false,
        maximumConnections: Int = 4096,
        logger: Logger,
        accept: @escaping @Sendable (Connection) throws(Failure) -> any ConnectionDelegate
    ) async throws(Failure) -> Listener {
        let address = try await resolve(host: host, port: port)
        if !address.isLoopback {
            guard insecureNetwork else {
                throw Failure(
                    code: "insecure_network",
                    message: "\(host) is not a loopback address and the protocol is not encrypted; "
                        + "bind 127.0.0.1, or pass --insecure-network on a network you trust"
                )
            }
            logger.warning("listening without encryption on a network", metadata: ["address": "\(address)"])
        }
        let open = ConnectionCount()
        let bootstrap = ServerBootstrap(group: acceptLoop, childGroup: childLoop)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.recvAllocator, value: ConnectionBootstrap.receiveAllocator)
            .childChannelInitializer { channel in
                let count = open.add()
                channel.closeFuture.whenComplete { _ in open.remove() }
                let refusal =
                    count > maximumConnections
                    ? Failure(
                        code: "too_many_connections",
                        message: "this port serves at most \(maximumConnections) connections"
                    ) : nil
                return ConnectionBootstrap.initialize(
                    channel, side: .acceptor(roles: roles), identity: identity, refusal: refusal,
                    owner: { ConnectionHandler.Owner(accept: accept) }
                )
            }
        do {
            let channel = try await bootstrap.bind(to: address).get()
            guard let bound = channel.localAddress else {
                throw Failure(code: "bind_failed", message: "\(host):\(port) has no local address")
            }
            return Listener(channel: channel, address: bound)
        } catch let failure as Failure {
            throw failure
        } catch {
            throw Failure(
                code: "bind_failed", message: "cannot listen on \(host):\(port): \(systemMessage(of: error))")
        }
    }

    /// The port that was bound.
    package var port: Int { address.port ?? 0 }

    /// Stops accepting. Connections that are open stay open.
    package func close() async {
        channel.close(promise: nil)
        // The close future of a channel never fails.
        try? await channel.closeFuture.get()
    }

    private static func resolve(host: String, port: Int) async throws(Failure) -> SocketAddress {
        guard (0...65_535).contains(port) else {
            throw Failure(code: "address_invalid", message: "port is \(port), expected 0 to 65535")
        }
        do {
            // getaddrinfo blocks, so it runs on the blocking pool.
            return try await NIOThreadPool.singleton.runIfActive {
                try SocketAddress.makeAddressResolvingHost(host, port: port)
            }
        } catch {
            throw Failure(code: "address_invalid", message: "cannot resolve \(host): \(error)")
        }
    }
}

/// Open connections of one listener.
private final class ConnectionCount: Sendable {
    private let count = Atomic<Int>(0)

    func add() -> Int { count.add(1, ordering: .relaxed).newValue }
    func remove() { count.subtract(1, ordering: .relaxed) }
}

extension SocketAddress {
    /// Whether only this machine can reach the address.
    package var isLoopback: Bool {
        switch self {
        case .v4: ipAddress?.hasPrefix("127.") == true
        case .v6: ipAddress == "::1"
        case .unixDomainSocket: true
        }
    }
}
