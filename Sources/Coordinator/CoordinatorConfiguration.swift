package import ModelStore
package import Placement
import Wire

/// Everything a coordinator is told. Values are checked by `Coordinator.init`.
package struct CoordinatorConfiguration: Sendable {
    /// Who holds what.
    package enum Layout: Sendable, Equatable {
        /// As written: the named workers and no others.
        case topology(Topology)
        /// As soon as this many workers have registered, layers and experts are dealt evenly, workers in order of name.
        case even(workers: Int, stages: Int)
    }

    package var manifest: Manifest
    package var store: Store
    /// What a request's `model` must say (or nothing).
    package var modelName: String
    /// The coordinator's own name, for status and logs.
    package var name = "coordinator"
    /// Where workers and clients connect; port 0 picks a free one.
    package var host = "127.0.0.1"
    package var port = 0
    /// Allows an address that is not loopback. There is no TLS: whoever reaches the port is served.
    package var insecureNetwork = false
    package var layout: Layout
    /// Longest sequence, prompt and answer, in tokens; nil is the model's own limit. Bounded by the pages of a lane.
    package var contextLength: Int?
    /// KV pages (32 tokens) of each worker, shared by the lanes that go through it.
    package var pagesPerWorker = defaultPagesPerWorker
    package static let defaultPagesPerWorker = 1024
    /// Most rows in one step: decode rows come first, rows of prompts fill the rest.
    package var stepTokens = 256
    /// Most sequences that run in a lane at once; more wait.
    package var maximumSequencesPerLane = 64
    /// Most requests that wait for a lane. One more is refused with `queue_full`.
    package var queueLimit = 256
    /// Most tokens in the prompts of requests that wait.
    package var queueTokenLimit = 1 << 20
    /// Longest time a request waits for a lane before it fails with `queue_timeout`.
    package var queueTimeoutMilliseconds = 120_000
    /// Tokens a reader may be behind before it is cut off. Bounds what waits for it.
    package var readerTokenLimit = 1024
    /// Whom requests are served for, by their API keys.
    package var tenants = Tenants()
    /// What each tenant's share is in proportion to; 1 where a tenant is not in it.
    package var tenantWeights: [String: Double] { tenants.weights }
    /// Most requests under way on one client connection.
    package var streamsPerConnection = 256
    /// A worker that was not heard for this long is lost.
    package var heartbeatTimeoutMilliseconds = 2_500
    /// A step that did not come back for this long is given up.
    package var stepTimeoutMilliseconds = 120_000

    /// Every worker's matrix products are OpenBLAS's; otherwise every worker's are the native kernels'.
    package var usesOpenBLAS = false

    /// What every worker must announce: a cluster never mixes two.
    package var numericsVersion: UInt32 {
        UInt32(clamping: manifest.numericsVersion) | (usesOpenBLAS ? NumericsVersion.openBLAS : 0)
    }

    package init(manifest: Manifest, store: Store, layout: Layout) {
        self.manifest = manifest
        self.store = store
        self.modelName = manifest.name
        self.layout = layout
    }
}
