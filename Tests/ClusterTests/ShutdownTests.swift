import Foundation
import Glibc
import Testing

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
