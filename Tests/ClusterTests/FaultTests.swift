import Foundation
import Glibc
import JSONText
import ModelStore
import Testing

extension ClusterTests {
    @Suite struct FaultTests {
        /// A worker dies in the middle of streams: each ends, with all of its text or with an error, within 3 s. Then the
        /// worker is started again, and the cluster serves as before.
        @Test func killedWorker() async throws {
            try await withCluster(.even(stages: 2, workers: 4)) { cluster in
                let victim = try #require(try await cluster.status().workers.first { $0.stage == 0 })
                let (began, begin) = AsyncStream<Void>.makeStream()
                let streams = 4
                let ends = try await withThrowingTaskGroup(of: (String, ContinuousClock.Instant).self) { group in
                    for _ in 0..<streams {
                        group.addTask {
                            (try await cluster.stream(Cluster.longTale) { begin.yield() }, .now)
                        }
                    }
                    var waiting = streams
                    for await _ in began {
                        waiting -= 1
                        if waiting == 0 { break }
                    }
                    let killed = ContinuousClock.now
                    kill(victim.processId, SIGKILL)
                    var ends: [(text: String, after: Duration)] = []
                    for try await (text, end) in group { ends.append((text, killed.duration(to: end))) }
                    return ends
                }
                #expect(ends.count == streams)
                for end in ends {
                    let events = end.text.split(separator: "data: ")
                    let last = events.last.map(String.init) ?? ""
                    #expect(last.contains("[DONE]") || last.contains("\"error\""), "\(last.prefix(200))")
                    #expect(end.text.contains("\"text\""))
                    // The figure of the promise, not a measure of speed.
                    if last.contains("\"error\"") { #expect(end.after < .seconds(3)) }
                }
                #expect(ends.contains { $0.text.contains("\"error\"") }, "nobody noticed")
                #expect(try await cluster.get("/health").hasPrefix("HTTP/1.1 200"))
                // Whether a lane is left or not, a new request is answered.
                let next = try await cluster.post("/v1/completions", #"{"prompt": "x", "max_tokens": 2}"#)
                #expect(next["choices"] != nil || next["error"]?["code"]?.string != nil)
                try await eventually("\(victim.name) is back") {
                    let workers = try await cluster.status().workers
                    return workers.count == 4 && workers.allSatisfy { $0.state == "ready" }
                        && !workers.contains { $0.processId == victim.processId }
                }
                let later = try await cluster.post("/v1/completions", #"{"prompt": "x", "max_tokens": 2}"#)
                #expect(later["choices"] != nil, "\(later)")
            }
        }

        /// The model's files are cut while its worker has them mapped: the process says so, and the request hears of it.
        @Test func cutBlobs() async throws {
            let directory = try temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let copy = try DemoStore.required().copied(to: directory)
            try await DemoStore.$current.withValue(copy) {
                try await withCluster(.even(stages: 1, workers: 1)) { cluster in
                    for layer in try copy.manifest().layers {
                        for blob in layer.experts {
                            #expect(truncate(copy.store.blobPath(blob), 0) == 0)
                        }
                    }
                    let answer = try await cluster.post("/v1/completions", #"{"prompt": "x", "max_tokens": 2}"#)
                    #expect(answer["error"]?["code"]?.string == "worker_lost", "\(answer)")
                    let log = cluster.state.appending(path: "worker-0.log")
                    try await eventually("the worker says why") {
                        try String(contentsOf: log, encoding: .utf8).contains(
                            "tramontane: bus error: a mapped file was cut")
                    }
                }
            }
        }

        /// `up` cannot write down what runs, as on a full disk: it says so, and goes on starting workers.
        @Test func unwritableState() async throws {
            try await withCluster(.even(stages: 1, workers: 1)) { cluster in
                let inTheWay = cluster.state.appending(path: "cluster.json.new")
                try FileManager.default.createDirectory(at: inTheWay, withIntermediateDirectories: false)
                let victim = try #require(try await cluster.status().workers.first)
                kill(victim.processId, SIGKILL)
                try await eventually("\(victim.name) is back") {
                    try await cluster.status().workers.contains {
                        $0.state == "ready" && $0.processId != victim.processId
                    }
                }
                let log = try String(contentsOf: cluster.state.appending(path: "up.log"), encoding: .utf8)
                #expect(log.contains(inTheWay.path))
            }
        }

        /// One bit of one expert differs on disk: the worker that needs it names the blob, and nothing is served.
        @Test func alteredBlob() async throws {
            let demo = try DemoStore.required()
            let directory = try temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: directory) }
            let altered = try demo.copied(to: directory)
            let blob = try demo.manifest().layers[1].experts[3]
            let file = URL(filePath: altered.store.blobPath(blob))
            var bytes = try Data(contentsOf: file)
            bytes[bytes.count / 2] ^= 1
            try bytes.write(to: file)
            let state = directory.appending(path: "state")
            try FileManager.default.createDirectory(at: state, withIntermediateDirectories: true)
            let error = try await #require(throws: Cluster.Unserved.self) {
                try await DemoStore.$current.withValue(altered) {
                    _ = try await Cluster.start(.even(stages: 1, workers: 2), state: state)
                }
            }
            #expect(error.description.contains("failed to start: it ended with status 1"))
            #expect(error.description.contains("blob_altered") && error.description.contains(blob.sha256))
        }
    }
}
