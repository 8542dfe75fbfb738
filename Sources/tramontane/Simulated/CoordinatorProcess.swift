import Foundation
import Wire

/// A coordinator in a process of its own, on free ports of loopback, that ends with this process.
final class CoordinatorProcess {
    private let child: ChildProcess
    private let supervision: (read: Int32, write: Int32)
    private let log: String
    private var lines: LineReader
    /// Nil as long as nobody has waited for its end.
    private var exit: ProcessExit?

    var processID: pid_t { child.processID }

    /// - Parameter arguments: of `tramontane coordinator`, without addresses.
    init(arguments: [String]) throws {
        log = FileManager.default.temporaryDirectory.appending(path: "tramontane-bench-\(getpid()).log").path
        supervision = try Descriptors.pipe()
        let addresses = ["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"]
        child = try ChildProcess.start(
            "coordinator", arguments: ["coordinator", "--supervised"] + addresses + arguments, log: log,
            continuesLog: false, supervision: supervision.read, reports: true)
        lines = LineReader(child.output)
    }

    /// Waits until the coordinator says so.
    /// - Returns: where it serves HTTP, and where workers find it.
    func wait(for event: CoordinatorReport.Event) throws -> (http: Address, listen: Address) {
        while let line = try lines.next() {
            guard let report = CoordinatorReport(line: String(decoding: line, as: UTF8.self)), report.event == event
            else { continue }
            return (try Address(parsing: report.http), try Address(parsing: report.listen))
        }
        let exit = collect()
        let words = StateDirectory.lastWords(of: log, after: exit).map { ": \($0)" } ?? ""
        throw CommandError.failure("coordinator: \(exit); see \(log)\(words)")
    }

    /// Ends it, if it has not ended by itself.
    func stop() {
        guard exit == nil else { return }
        kill(child.processID, SIGTERM)
        if collect() == .status(0) { unlink(log) }
    }

    /// Waits until it has ended, which it does when the supervision's pipe is closed, if not before.
    private func collect() -> ProcessExit {
        if let exit { return exit }
        close(supervision.write)
        var status: Int32 = 0
        while waitpid(child.processID, &status, 0) < 0, errno == EINTR {}
        close(supervision.read)
        close(child.output)
        let exit = ProcessExit(waitStatus: status)
        self.exit = exit
        return exit
    }
}
