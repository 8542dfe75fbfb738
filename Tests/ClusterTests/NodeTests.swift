import Engine
import Foundation
import Testing

extension ClusterTests {
    /// Workers that were given NUMA nodes. Most machines that run tests have one node.
    @Suite struct NodeTests {
        @Test func aWorkerOnEachNode() async throws {
            let nodes = NUMANodes().usable
            try await withCluster(.eachNode) { cluster in
                try await expectReferenceResults(of: cluster)
                let workers = try await cluster.status().workers.sorted { $0.name < $1.name }
                #expect(workers.count == nodes.count)
                for (worker, node) in zip(workers, nodes) {
                    let files = ["/proc/self/status": "/proc/\(worker.processId)/status"]
                    let its = NUMANodes { try? String(contentsOfFile: files[$0] ?? $0, encoding: .utf8) }
                    #expect(its.usable == [node])
                }
            }
        }
    }
}
