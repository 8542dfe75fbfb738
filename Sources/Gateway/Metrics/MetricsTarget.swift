import JSONText

/// A worker's `/metrics`, for Prometheus to find.
package struct MetricsTarget: Sendable {
    let worker: String
    /// HOST:PORT.
    let address: String

    package init(worker: String, address: String) {
        self.worker = worker
        self.address = address
    }

    /// As `http_sd_configs` reads it: https://prometheus.io/docs/prometheus/latest/http_sd/
    static func json(_ targets: [MetricsTarget]) -> JSONValue {
        .array(
            targets.map { target in
                ["targets": [.string(target.address)], "labels": ["worker": .string(target.worker)]]
            })
    }
}
