import Logging
import TestSupport
import Testing
import Wire

@testable import Worker

/// What a worker makes of the end of its connection to the coordinator.
struct RejoiningTests {
    private struct Worker {
        var random = SeededGenerator(seed: 1)
        var rejoining = Rejoining(coordinator: "127.0.0.1:7000")

        mutating func end(_ code: String, _ message: String = "words", wasReady: Bool = false) -> Rejoining.Decision {
            rejoining.ended(Failure(code: code, message: message), wasReady: wasReady, using: &random)
        }

        mutating func level(_ code: String, wasReady: Bool = false) -> Logger.Level? {
            guard case .dial(_, _, let level) = end(code, wasReady: wasReady) else { return nil }
            return level
        }
    }

    /// Nothing but another start changes these.
    @Test(arguments: [
        ("worker_unknown", "--name"), ("worker_name", "--name"), ("name_invalid", "--name"),
        ("manifest_mismatch", "--model"), ("numerics_mismatch", "--compute"), ("memory_insufficient", "--memory"),
        ("address_invalid", "--advertise"), ("version_unsupported", "release"), ("role_refused", "--coordinator"),
        ("role_unexpected", "--coordinator"), ("http_response", "--coordinator"),
    ])
    func aRefusalOfTheConfigurationIsFinal(code: String, remedy: String) {
        var worker = Worker()
        guard case .giveUp(let failure) = worker.end(code, "what it said") else {
            Issue.record("\(code) is dialled again")
            return
        }
        #expect(failure.code == code)
        for part in ["127.0.0.1:7000", "what it said", remedy] {
            #expect(failure.message.contains(part), "\(failure.message)")
        }
    }

    @Test(arguments: [
        "worker_duplicate", "cluster_full", "too_many_connections", "heartbeat_missed", "connection_superseded",
        "identity_mismatch", "data_unreachable",
    ])
    func whatTimeMayChangeIsTriedAgain(code: String) {
        var worker = Worker()
        guard case .dial(_, let words, let level) = worker.end(code) else {
            Issue.record("\(code) ends the worker")
            return
        }
        #expect(level == .warning)
        #expect(!words.contains("no connection"), "the coordinator was there")
    }

    @Test func attemptsBecomeRarerUntilOneSucceeds() {
        var worker = Worker()
        func wait(_ wasReady: Bool = false) -> Int {
            guard case .dial(let milliseconds, _, _) = worker.end("connect_failed", wasReady: wasReady) else {
                return -1
            }
            return milliseconds
        }
        var last = 0
        for _ in 0..<12 { last = wait() }
        #expect((1_500...3_000).contains(last))
        #expect((50...100).contains(wait(true)))
    }

    @Test func theSameReasonIsSaidOnce() {
        var worker = Worker()
        #expect(worker.level("worker_duplicate") == .warning)
        #expect(worker.level("worker_duplicate") == .debug)
        #expect(worker.level("connect_failed") == .warning)
        #expect(worker.level("connect_failed") == .debug)
        #expect(worker.level("connect_failed", wasReady: true) == .warning)
    }

    /// A coordinator that leaves in good order is no fault, and neither is that it is not there afterwards.
    @Test func anOrderlyLeaveIsNoFault() {
        var worker = Worker()
        #expect(worker.level("shutting_down", wasReady: true) == .info)
        #expect(worker.level("connect_failed") == .info)
        #expect(worker.level("connection_closed") == .info)
        #expect(worker.level("worker_duplicate") == .warning)
        #expect(worker.level("connect_failed") == .warning)
        #expect(worker.level("shutting_down") == .info)
        #expect(worker.level("connection_closed", wasReady: true) == .warning)
    }
}
