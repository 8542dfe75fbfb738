import Coordinator
import Hummingbird
import Logging
import NIOCore
import NIOPosix
import Transport

/// One HTTP listener with its limits, whatever it answers.
final class HTTPServer: Sendable {
    /// Connections live on loops of their own: while they write one step's tokens, the coordinator's sends the next.
    private static let loops = MultiThreadedEventLoopGroup(numberOfThreads: max(1, min(4, System.coreCount / 2)))

    let configuration: Gateway.Configuration
    private let logger: Logger
    /// HOST:PORT, when the listener is bound.
    private let bound = MultiThreadedEventLoopGroup.singleton.any().makePromise(of: String.self)

    init(configuration: Gateway.Configuration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
    }

    deinit {
        bound.fail(Gateway.AddressError(description: "the server was never run"))
    }

    /// The address of the listener once it is bound, as HOST:PORT.
    /// - Throws: When it cannot be bound.
    func listening() async throws -> String {
        try await bound.futureResult.get()
    }

    /// Serves until cancelled or a graceful shutdown begins, which lets the requests under way finish.
    func run(_ responder: some HTTPResponder<GatewayContext>) async throws {
        do {
            try await serve(responder)
        } catch {
            bound.fail(error)
            throw error
        }
    }

    private func serve(_ responder: some HTTPResponder<GatewayContext>) async throws {
        try checkAddress()
        let (drainLimitBytes, overflow) = configuration.bodyLimitBytes.multipliedReportingOverflow(by: 4)
        let limits = ConnectionGuard.Limits(
            bodyBytes: overflow ? .max : drainLimitBytes, stall: .seconds(configuration.stallTimeoutSeconds),
            patience: RequestPatience.Limits(
                idle: .seconds(configuration.idleTimeoutSeconds), head: .seconds(configuration.headTimeoutSeconds),
                body: .seconds(configuration.bodyTimeoutSeconds)))
        let application = Application(
            responder: responder,
            server: .http1(
                configuration: .init(
                    additionalChannelHandlers: [ConnectionGuard(limits: limits)],
                    httpDecoderConfiguration: .init(
                        maxHeaderFieldSize: ConnectionGuard.headFieldBytes,
                        maxHeaderListSize: ConnectionGuard.headBytes,
                        maxHeaderFieldCount: ConnectionGuard.headFields))),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "tramontane",
                availableConnectionsDelegate: ConnectionLimit(configuration.maximumConnections, logger: logger)),
            onServerRunning: { [bound] channel in
                guard let address = channel.localAddress, let host = address.ipAddress, let port = address.port else {
                    return bound.fail(Gateway.AddressError(description: "the listener has no address"))
                }
                bound.succeed(host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)")
            },
            eventLoopGroupProvider: .shared(Self.loops), logger: logger)
        do {
            try await application.run()
        } catch let error as IOError {
            throw Gateway.AddressError(
                description: "cannot serve HTTP on \(configuration.host):\(configuration.port): "
                    + systemMessage(of: error))
        }
    }

    /// Nothing is encrypted and nobody is asked who they are, so only this machine may come in.
    private func checkAddress() throws {
        guard (0...65_535).contains(configuration.port) else {
            throw Gateway.AddressError(description: "HTTP port \(configuration.port), 0 to 65535 are possible")
        }
        if Self.isLoopback(configuration.host) { return }
        guard configuration.insecureNetwork else {
            throw Gateway.AddressError(
                description: "HTTP address \(RequestError.quoted(configuration.host)) is not a loopback address: "
                    + "without TLS, other machines are only served with --insecure-network")
        }
        logger.warning(
            "HTTP is open to the network, without encryption or authentication",
            metadata: ["host": .string(configuration.host)])
    }

    private static func isLoopback(_ host: String) -> Bool {
        if host == "localhost" { return true }
        guard let address = try? SocketAddress(ipAddress: host, port: 0), let text = address.ipAddress else {
            return false
        }
        return text == "::1" || (address.protocol == .inet && text.hasPrefix("127."))
    }
}
