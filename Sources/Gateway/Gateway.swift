package import Coordinator
import Hummingbird
package import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import Transport

/// HTTP in front of the coordinator: OpenAI's API, `/health` and `/ready`.
package final class Gateway: Service {
    package struct Configuration: Sendable {
        package var host: String
        /// 0 picks a free one.
        package var port: Int
        /// Allows an address that is not loopback. There is no TLS and no authentication: whoever reaches the port is
        /// served.
        package var insecureNetwork = false
        /// Longest request body. A prompt of a full context of 64 Ki tokens is well below 1 MiB.
        package var bodyLimitBytes = 4 << 20
        /// Connections at once; more wait in the kernel's backlog.
        package var maximumConnections = 1024
        /// A connection without a request for so long is closed.
        package var idleTimeoutSeconds: Int64 = 75
        /// A request whose head makes no progress for so long is answered with 408 and its connection closed.
        package var headTimeoutSeconds: Int64 = 10
        /// The same of a body.
        package var bodyTimeoutSeconds: Int64 = 30
        /// A client that reads so little that its connection stays full for so long is cut off.
        package var stallTimeoutSeconds: Int64 = 30

        package init(host: String = "127.0.0.1", port: Int = 8080) {
            self.host = host
            self.port = port
        }
    }

    /// Why the gateway cannot listen.
    package struct AddressError: Error, CustomStringConvertible {
        package let description: String
    }

    private let configuration: Configuration
    private let service: any GenerationService
    private let logger: Logger
    /// HOST:PORT, when the listener is bound.
    private let bound = MultiThreadedEventLoopGroup.singleton.any().makePromise(of: String.self)

    package init(configuration: Configuration, service: any GenerationService, logger: Logger) {
        self.configuration = configuration
        self.service = service
        self.logger = logger
    }

    package convenience init(configuration: Configuration, coordinator: Coordinator, logger: Logger) {
        self.init(configuration: configuration, service: coordinator, logger: logger)
    }

    deinit {
        bound.fail(AddressError(description: "the gateway was never run"))
    }

    /// The address of the listener once it is bound, as HOST:PORT.
    /// - Throws: When it cannot be bound.
    package func listening() async throws -> String {
        try await bound.futureResult.get()
    }

    /// Serves until cancelled or a graceful shutdown begins, which lets the requests under way finish.
    package func run() async throws {
        do {
            try await serve()
        } catch {
            bound.fail(error)
            throw error
        }
    }

    private func serve() async throws {
        try checkAddress()
        let bodyLimitBytes = configuration.bodyLimitBytes
        let (drainLimitBytes, overflow) = bodyLimitBytes.multipliedReportingOverflow(by: 4)
        let limits = ConnectionGuard.Limits(
            bodyBytes: overflow ? .max : drainLimitBytes, stall: .seconds(configuration.stallTimeoutSeconds),
            patience: RequestPatience.Limits(
                idle: .seconds(configuration.idleTimeoutSeconds), head: .seconds(configuration.headTimeoutSeconds),
                body: .seconds(configuration.bodyTimeoutSeconds)))
        let application = Application(
            responder: Routes(service: service, bodyLimitBytes: bodyLimitBytes, logger: logger).responder(),
            server: .http1(
                configuration: .init(
                    additionalChannelHandlers: [ConnectionGuard(limits: limits)],
                    httpDecoderConfiguration: .init(
                        maxHeaderFieldSize: ConnectionGuard.headFieldBytes,
                        maxHeaderListSize: ConnectionGuard.headBytes,
                        maxHeaderFieldCount: ConnectionGuard.headFields))),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "tramontane",
                availableConnectionsDelegate: .maximum(configuration.maximumConnections, logger: logger)),
            onServerRunning: { [bound] channel in
                guard let address = channel.localAddress, let host = address.ipAddress, let port = address.port else {
                    return bound.fail(AddressError(description: "the listener has no address"))
                }
                bound.succeed(host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)")
            },
            logger: logger)
        do {
            try await application.run()
        } catch let error as IOError {
            throw AddressError(
                description: "cannot serve HTTP on \(configuration.host):\(configuration.port): "
                    + systemMessage(of: error))
        }
    }

    /// Nothing is encrypted and nobody is asked who they are, so only this machine may come in.
    private func checkAddress() throws {
        guard (0...65_535).contains(configuration.port) else {
            throw AddressError(description: "HTTP port \(configuration.port), 0 to 65535 are possible")
        }
        if Self.isLoopback(configuration.host) { return }
        guard configuration.insecureNetwork else {
            throw AddressError(
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
