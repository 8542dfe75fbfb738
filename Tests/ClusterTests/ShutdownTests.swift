import Foundation
import Glibc
import Testing
import TramontaneClient

extension ClusterTests {
    /// However `up` ends, nothing that it started is left.
    @Suite struct ShutdownTests {
        enum End: String, CaseIterable, Sendable {
            case terminated
            /// Ctrl-C: the terminal's signal goes to the whole process group.
            case interrupted
            case killed
        }

        @Test(arguments: End.allCases)
        func noOrphans(_ end: End) async throws {
            let state = try temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: state) }
            let cluster = try await Cluster.start(.even(stages: 1, workers: 2), state: state)
            let children = try Self.children(of: cluster.processID)
            #expect(children.count == 3, "a coordinator and two workers")
            switch end {
            case .terminated: kill(cluster.processID, SIGTERM)
            case .interrupted:
                let group = getpgid(cluster.processID)
                if group == cluster.processID {
                    kill(-group, SIGINT)
                } else {
                    for process in children + [cluster.processID] { kill(process, SIGINT) }
                }
            case .killed: kill(cluster.processID, SIGKILL)
            }
            let status = await cluster.exitStatus()
            if end != .killed { #expect(status == 0) }
            try await eventually("every process has ended") { children.allSatisfy { !Self.runs($0) } }
        }

        /// Answers under way end with the coordinator's word over both ports, and not with the loss of a worker.
        @Test func streamsHearThatTheClusterStops() async throws {
            let state = try temporaryDirectory()
            defer { try? FileManager.default.removeItem(at: state) }
            let cluster = try await Cluster.start(.even(stages: 2, workers: 4), state: state)
            let children = try Self.children(of: cluster.processID)
            let client = try await TramontaneClient.connect(host: "127.0.0.1", port: cluster.listenPort)
            var options = GenerationOptions(maxTokens: 1500)
            options.logitBias = [2: -100]
            let answers = (0..<4).map { _ in client.complete("A long tale:", options: options) }
            let (began, begin) = AsyncStream<Void>.makeStream()
            let ends = try await withThrowingTaskGroup(of: String.self) { group in
                for _ in 0..<4 {
                    group.addTask {
                        let text = try await cluster.stream(Cluster.longTale) { begin.yield() }
                        return text.split(separator: "data: ").last.map(String.init) ?? ""
                    }
                }
                for answer in answers {
                    group.addTask {
                        var count = 0
                        do {
                            for try await _ in answer {
                                count += 1
                                if count == 1 { begin.yield() }
                            }
                        } catch let error as TramontaneError {
                            if count == 0 { begin.yield() }
                            return error.code
                        }
                        return "finished"
                    }
                }
                var waiting = 8
                for await _ in began {
                    waiting -= 1
                    if waiting == 0 { break }
                }
                kill(cluster.processID, SIGTERM)
                return try await group.reduce(into: [String]()) { $0.append($1) }
            }
            // Who was quick may have finished.
            let cut = ends.filter { $0 != "finished" && !$0.contains("[DONE]") }
            #expect(!cut.isEmpty, "all had finished")
            for end in cut { #expect(end.contains("shutting_down"), "\(end.prefix(300))") }
            #expect(await cluster.exitStatus() == 0)
            try await eventually("every process has ended") { children.allSatisfy { !Self.runs($0) } }
            await client.close()
            let said = try String(contentsOf: state.appending(path: "up.log"), encoding: .utf8)
            #expect(!said.contains("did not end") && !said.contains("status"), "\(said)")
        }

        private static func children(of parent: pid_t) throws -> [pid_t] {
            try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { pid_t($0) }.filter {
                stat(of: $0)?.parent == parent
            }
        }

        private static func runs(_ process: pid_t) -> Bool {
            // A zombie whose new parent does not collect it is dead as well.
            stat(of: process).map { $0.state != "Z" && $0.state != "X" } ?? false
        }

        private static func stat(of process: pid_t) -> (state: String, parent: pid_t)? {
            guard let text = try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8),
                let name = text.lastIndex(of: ")")
            else { return nil }
            let fields = text[text.index(after: name)...].split(separator: " ")
            guard fields.count > 1, let parent = pid_t(fields[1]) else { return nil }
            return (String(fields[0]), parent)
        }
    }
}
