import Synchronization
import Testing

@testable import Coordinator

@Suite struct EventFeedTests {
    private let feed = EventFeed(answers: 2)
    private let calls = Counter()

    private func put(_ text: String, _ answer: Int = 0, limit: Int = 100) -> Bool {
        defer {
            feed.callReader()
            feed.wakeReader()
        }
        return feed.put(text: text, tokens: [7], answer: answer, limit: limit)
    }

    private func taken() -> [EventFeed.Item] {
        var items: [EventFeed.Item] = []
        feed.take(into: &items)
        return items
    }

    private static func delta(_ text: String, _ answer: Int = 0) -> EventFeed.Item {
        .event(.delta(text: text, tokens: [7]), answer: answer)
    }

    @Test func whatComesTogetherIsTakenTogether() {
        feed.whenFilled { [calls] in calls.add() }
        #expect(calls.value == 0)
        #expect(put("a") && put("b", 1) && put("c"))
        #expect(calls.value == 1, "called once until it looks")
        #expect(taken() == [Self.delta("a"), Self.delta("b", 1), Self.delta("c")])
        #expect(taken() == [])
        #expect(put("d"))
        #expect(calls.value == 2)
        #expect(taken() == [Self.delta("d")])
    }

    @Test func tokensWaitForTheStepsOthers() {
        let wakes = Counter()
        feed.callReader()
        feed.wakeReader()
        feed.whenFilled({ [calls] in calls.add() }, thenWake: { wakes.add() })
        feed.callReader()
        #expect(
            feed.put(text: "a", tokens: [7], answer: 0, limit: 100)
                && feed.put(text: "b", tokens: [7], answer: 1, limit: 100)
        )
        #expect(calls.value == 0)
        feed.callReader()
        feed.callReader()
        #expect(calls.value == 1 && wakes.value == 0)
        feed.wakeReader()
        #expect(wakes.value == 1)
        #expect(taken() == [Self.delta("a"), Self.delta("b", 1)])
        feed.callReader()
        #expect(calls.value == 1, "nothing has come since")
        #expect(put("c") && calls.value == 2 && wakes.value == 2)
        _ = taken()
        feed.put(.event(.finished(.stop, Usage(promptTokens: 1, completionTokens: 1)), answer: 0))
        #expect(calls.value == 3 && wakes.value == 3, "an end waits for nobody")
        feed.cancel()
        feed.callReader()
        feed.wakeReader()
        #expect(calls.value == 3 && wakes.value == 3)
    }

    @Test func whatCameBeforeTheReaderIsNotLost() {
        #expect(put("a"))
        feed.whenFilled { [calls] in calls.add() }
        #expect(calls.value == 1)
        #expect(taken() == [Self.delta("a")])
    }

    @Test func aReaderThatIsBehindIsBounded() {
        #expect(put("a", limit: 2) && put("b", limit: 2))
        #expect(!put("c", limit: 2))
        #expect(put("c", 1, limit: 2), "each answer for itself")
        feed.put(.failed(.slowReader(limit: 2)))
        feed.put(.event(.finished(.stop, Usage(promptTokens: 1, completionTokens: 1)), answer: 1))
        #expect(put("late"))
        #expect(
            taken() == [Self.delta("a"), Self.delta("b"), Self.delta("c", 1), .failed(.slowReader(limit: 2))],
            "nothing comes after a failure")
    }

    @Test func whatIsCancelledEndsOnce() {
        feed.whenCancelled { [calls] in calls.add() }
        #expect(put("a") && !feed.isCancelled)
        feed.cancel()
        feed.cancel()
        #expect(calls.value == 1 && feed.isCancelled)
        #expect(put("b"), "the answer is not at fault")
        #expect(taken() == [])
        feed.whenCancelled { [calls] in calls.add() }
        #expect(calls.value == 2, "at once")
    }
}

private final class Counter: Sendable {
    private let count = Atomic<Int>(0)

    var value: Int { count.load(ordering: .relaxed) }
    func add() { count.add(1, ordering: .relaxed) }
}
