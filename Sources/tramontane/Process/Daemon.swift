import Logging
import ServiceLifecycle
import UnixSignals

/// What the long-running commands have in common.
enum Daemon {
    /// - Returns: a logger to standard error.
    static func prepare(_ label: String, level: Logger.Level, supervised: Bool) throws -> Logger {
        ProcessLimits.raiseDescriptors()
        ProcessLimits.ignoreBrokenPipes()
        if supervised { try Supervision.begin() }
        LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
        var logger = Logger(label: label)
        logger.logLevel = level
        return logger
    }

    /// Runs services until SIGTERM, or Ctrl-C where nobody supervises; then ends them gracefully, the last one first.
    /// - Parameter graceSeconds: what has not ended gracefully by then is cancelled
    static func run(_ services: [any Service], supervised: Bool, graceSeconds: Int, logger: Logger) throws {
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .warning)
        var configuration = ServiceGroupConfiguration(
            services: services, gracefulShutdownSignals: supervised ? [.sigterm] : [.sigterm, .sigint], logger: quiet)
        configuration.maximumGracefulShutdownDuration = .seconds(graceSeconds)
        try Background.wait { [configuration] in
            try await ServiceGroup(configuration: configuration).run()
        }
    }
}
