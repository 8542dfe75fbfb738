import Coordinator
import TestSupport
import Testing

@Suite struct ClientStreamsTests {
    @Test func withoutCreditTextIsGathered() {
        var streams = ClientStreams(limits: .init())
        #expect(streams.open(1, request: 10, credit: 1) == .opened)
        #expect(
            streams.append(.init(text: "a", tokens: [1]), to: 1) == [.delta(stream: 1, .init(text: "a", tokens: [1]))])
        #expect(streams.append(.init(text: "b", tokens: [2]), to: 1) == [])
        #expect(streams.append(.init(text: "c", tokens: [3]), to: 1) == [])
        let usage = Usage(promptTokens: 1, completionTokens: 3)
        #expect(streams.finish(1, .length, usage) == [], "the end comes after the text")
        #expect(
            streams.grant(5, to: 1) == [
                .delta(stream: 1, .init(text: "bc", tokens: [2, 3])), .finished(stream: 1, .length, usage),
            ])
        #expect(streams.find(1) == .ended && streams.find(2) == .unknown)
        #expect(streams.open(1, request: 11, credit: 1) == .duplicate)
    }

    @Test func theBoundCutsOff() {
        var limits = ClientStreams.Limits()
        limits.gatheredTokens = 2
        var streams = ClientStreams(limits: limits)
        _ = streams.open(1, request: 10, credit: 0)
        #expect(streams.append(.init(text: "a", tokens: [1]), to: 1) == [])
        #expect(streams.append(.init(text: "b", tokens: [2]), to: 1) == [])
        #expect(streams.append(.init(text: "c", tokens: [3]), to: 1) == nil)
    }

    /// Nothing is lost, repeated or sent without credit, whatever the order of events, and memory of ended ids is
    /// bounded.
    @Test func randomEvents() {
        for seed in 0..<1000 {
            var random = SeededGenerator(seed: UInt64(seed))
            var limits = ClientStreams.Limits()
            limits.streams = 3
            limits.remembered = 5
            var streams = ClientStreams(limits: limits)
            var sent: [UInt64: [Int32]] = [:]
            var received: [UInt64: [Int32]] = [:]
            var credit: [UInt64: Int] = [:]
            var open: Set<UInt64> = []
            var last: UInt64 = 0
            func take(_ actions: [ClientStreams.Action]) {
                for action in actions {
                    switch action {
                    case .delta(let stream, let delta):
                        #expect(streams.isWritable, "seed \(seed)")
                        credit[stream, default: 0] -= 1
                        #expect(credit[stream, default: 0] >= 0, "seed \(seed): no credit")
                        received[stream, default: []] += delta.tokens
                    case .finished(let stream, _, _):
                        #expect(open.remove(stream) != nil, "seed \(seed): ended twice")
                        #expect(received[stream] == sent[stream], "seed \(seed)")
                    }
                }
            }
            var ending: Set<UInt64> = []
            for _ in 0..<120 {
                let stream = open.sorted().randomElement(using: &random) ?? 0
                switch Int.random(in: 0..<10, using: &random) {
                case 0:
                    last += 1
                    let first = UInt32.random(in: 0...2, using: &random)
                    let opening = streams.open(last, request: last, credit: first)
                    #expect(opening == (open.count < 3 ? .opened : .tooMany), "seed \(seed)")
                    if opening == .opened {
                        open.insert(last)
                        credit[last] = Int(first)
                    }
                case 1 where open.contains(stream):
                    ending.insert(stream)
                    take(streams.finish(stream, .stop, Usage(promptTokens: 0, completionTokens: 0)))
                case 2...3 where open.contains(stream):
                    credit[stream, default: 0] += 2
                    take(streams.grant(2, to: stream))
                case 4: take(streams.writable(Bool.random(using: &random)))
                case 5... where open.contains(stream) && !ending.contains(stream):
                    let token = Int32(sent[stream]?.count ?? 0)
                    sent[stream, default: []].append(token)
                    take(streams.append(.init(text: "", tokens: [token]), to: stream) ?? [])
                default: break
                }
            }
            take(streams.writable(true))
            for stream in open.sorted() {
                credit[stream, default: 0] += 1
                take(streams.grant(1, to: stream))
                if !ending.contains(stream) {
                    take(streams.finish(stream, .stop, Usage(promptTokens: 0, completionTokens: 0)))
                }
            }
            #expect(open.isEmpty && streams.count == 0, "seed \(seed)")
        }
    }
}
