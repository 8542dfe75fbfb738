import Logging
import Wire

/// What a worker does when its connection to the coordinator has ended, or could not be made: dial again after a while, or
/// give up. A value: what is said, and how loudly, is part of the answer.
struct Rejoining {
    enum Decision: Equatable {
        case dial(afterMilliseconds: Int, say: String, level: Logger.Level)
        /// As this worker was started, no coordinator like this one will ever take it.
        case giveUp(Failure)
    }

    private let coordinator: String
    private var backOff = BackOff(firstMilliseconds: 100, lastMilliseconds: 3_000)
    /// Said already, and not worth a line for each attempt.
    private var said: Failure?
    /// The coordinator said that it ends. Until it is back, nobody has to be told that it is not there.
    private var hasLeft = false

    /// - Parameter coordinator: its address, for messages
    init(coordinator: String) {
        self.coordinator = coordinator
    }

    /// - Parameters:
    ///   - reason: the coordinator's words or, where it said nothing, what was seen here
    ///   - wasReady: the coordinator had taken this worker, and its shard was ready
    mutating func ended(
        _ reason: Failure, wasReady: Bool, using generator: inout some RandomNumberGenerator
    ) -> Decision {
        if let remedy = Self.remedy(for: reason.code) {
            return .giveUp(
                Failure(
                    code: reason.code,
                    message: "the coordinator at \(coordinator) does not take this worker: \(reason.message); \(remedy)"
                ))
        }
        if wasReady {
            backOff.reset()
            said = nil
            hasLeft = false
        }
        let isNews = reason != said
        said = reason
        let level: Logger.Level
        let message: String
        switch reason.code {
        case "shutting_down":
            hasLeft = true
            level = .info
            message = "the coordinator is shutting down; this worker waits for the next one"
        case "connect_failed", "connection_closed", "connection_lost", "handshake_timeout", "keepalive_timeout":
            level = hasLeft ? .info : .warning
            message = "no connection to the coordinator"
        default:
            hasLeft = false
            level = .warning
            message = "the coordinator ended the connection; dialling again"
        }
        return .dial(
            afterMilliseconds: backOff.next(using: &generator), say: message, level: isNews ? level : .debug)
    }

    /// What would be right where the coordinator refuses what this worker was started with; nil where time may help: a
    /// predecessor of the same name whose death is not yet noticed, a cluster that is full until somebody leaves.
    private static func remedy(for code: String) -> String? {
        switch code {
        case "worker_unknown": "give --name one of the topology's, or add the worker to it"
        case "worker_name", "name_invalid": "give another --name"
        case "manifest_mismatch": "give --model the one that the coordinator serves"
        case "numerics_mismatch": "give --compute as the coordinator's, and a --model of the same import"
        case "memory_insufficient": "--memory says how much this worker may use"
        case "address_invalid": "give --advertise a host that others can dial"
        case "version_unsupported": "run the same release of tramontane on both sides"
        case "role_refused", "role_unexpected", "http_response": "give --coordinator the coordinator's --listen address"
        default: nil
        }
    }
}
