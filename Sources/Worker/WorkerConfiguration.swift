package import Engine
package import ModelStore
import Wire

/// What a worker is told by its operator.
package struct WorkerConfiguration: Sendable {
    /// Unique in the cluster; a topology names workers by it.
    package var name: String
    package var coordinatorHost: String
    package var coordinatorPort: Int
    /// The data listener. Port 0 picks a free one; the coordinator learns the real one.
    package var listenHost = "127.0.0.1"
    package var listenPort = 0
    /// HOST by which other workers reach the listener; the listener's own by default.
    package var advertisedHost: String?
    package var manifest: Manifest
    package var store: Store
    /// Threads that compute.
    package var threads: Int
    /// For weights and KV pages together; an assignment that needs more is refused.
    package var memoryBytes: UInt64
    package var compute = ComputeBackend.native
    /// Nil: resident on one of several NUMA nodes, as far as they fit there; mapped elsewhere.
    package var weightMemory: WeightMemory?
    /// Hash every blob before it is used.
    package var verifyBlobs = true
    /// Listen on other than loopback addresses, without encryption.
    package var insecureNetwork = false
    /// (row, expert) pairs that one home may have under way here. Rows and results of so many pairs are all that a home can
    /// make this worker hold: 4,096 of 6,144 float32 are 100 MB each way.
    package var rowCredits = 4_096
    package var heartbeatMilliseconds = 250

    /// What this worker announces: peers with another one are refused.
    package var numericsVersion: UInt32 {
        UInt32(clamping: manifest.numericsVersion) | (compute == .openblas ? NumericsVersion.openBLAS : 0)
    }

    package init(
        name: String, coordinatorHost: String, coordinatorPort: Int, manifest: Manifest, store: Store,
        threads: Int = availableThreads(), memoryBytes: UInt64
    ) {
        self.name = name
        self.coordinatorHost = coordinatorHost
        self.coordinatorPort = coordinatorPort
        self.manifest = manifest
        self.store = store
        self.threads = threads
        self.memoryBytes = memoryBytes
    }
}
