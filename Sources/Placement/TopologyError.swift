/// What is wrong with a topology, in one line that names the stage or worker, the value found and what would be right.
package struct TopologyError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Stable, for programs: "expert_unheld", "worker_duplicate", "layers_uncovered", "memory_insufficient", …
    package let code: String
    package let message: String
    /// The worker whose memory is not enough.
    package let worker: String?

    init(code: String, message: String, worker: String? = nil) {
        self.code = code
        self.message = message
        self.worker = worker
    }

    package var description: String { message }
}
