import Coordinator
import TestSupport
import Testing
import Tokenizer
import Wire

@Suite struct StopMatcherTests {
    /// The rule without any automaton: the first string to be complete ends the text, the longer one of two.
    private func expected(_ text: String, _ stops: [String]) -> String {
        let bytes = Array(text.utf8)
        for end in 0...bytes.count {
            let hits = stops.map { Array($0.utf8) }.filter { stop in
                stop.count <= end && bytes[(end - stop.count)..<end].elementsEqual(stop)
            }
            guard let longest = hits.map(\.count).max() else { continue }
            return String(decoding: bytes[..<(end - longest)], as: UTF8.self)
        }
        return text
    }

    /// However the text is cut: what comes out is the same, and never a byte of a stop string that ends the text.
    @Test func anyCutGivesTheSameText() {
        for seed in 0..<3000 {
            var random = SeededGenerator(seed: UInt64(seed))
            func word(_ longest: Int) -> String {
                String(
                    (0..<Int.random(in: 1...longest, using: &random)).map { _ in
                        "abé".randomElement(using: &random) ?? "a"
                    })
            }
            let stops = (0..<Int.random(in: 1...4, using: &random)).map { _ in word(5) }
            let text = word(40)
            let whole = expected(text, stops)
            var matcher = StopMatcher(stops)
            var out = ""
            var rest = text[...]
            while !rest.isEmpty {
                let piece = rest.prefix(.random(in: 1...4, using: &random))
                rest = rest.dropFirst(piece.count)
                out += matcher.append(String(piece))
                #expect(whole.hasPrefix(out), "seed \(seed): \(out) was given out of \(whole)")
            }
            let stopped = matcher.hasStopped
            out += matcher.finish()
            #expect(out == whole, "seed \(seed)")
            #expect(stopped == (whole != text || stops.contains { text.hasSuffix($0) }), "seed \(seed)")
        }
    }

    @Test func beginningsAreHeldBack() {
        var matcher = StopMatcher(["\n\nUser:"])
        #expect(matcher.append("Hello\n") == "Hello")
        #expect(matcher.append("\nUse") == "")
        #expect(matcher.append("d") == "\n\nUsed")
        #expect(matcher.append("\n") == "")
        #expect(matcher.finish() == "\n")
    }
}

@Suite struct RequestMachineTests {
    private func makeMachine(
        _ tokenizer: Tokenizer, prompt: [Int32] = [], maximum: Int = 100, stop: [String] = []
    ) -> RequestMachine {
        RequestMachine(
            tokenizer: tokenizer, textContext: prompt, promptTokens: prompt.count, maximumTokens: maximum, stop: stop)
    }

    @Test func endTokenEndsAndCountsButIsNoText() throws {
        let tokenizer = try FakeModel.tokenizer()
        var machine = makeMachine(tokenizer)
        let ids = tokenizer.encode("Good night")
        let text = ids.map { machine.append($0).text }.joined()
        let end = machine.append(tokenizer.endToken)
        #expect(text + end.text == tokenizer.decode(ids))
        #expect(end.finish == .stop)
        #expect(machine.usage == Usage(promptTokens: 0, completionTokens: ids.count + 1))
        #expect(machine.append(ids[0]) == .init(text: "", finish: nil), "nothing comes after the end")
    }

    @Test func maximumEndsWithLength() throws {
        let tokenizer = try FakeModel.tokenizer()
        let ids = tokenizer.encode("to be or not to be")
        var machine = makeMachine(tokenizer, maximum: 3, stop: ["zzz"])
        let outputs = ids.prefix(3).map { machine.append($0) }
        #expect(outputs.map(\.finish) == [nil, nil, .length])
        #expect(outputs.map(\.text).joined() == tokenizer.decode(ids.prefix(3)))
    }

    @Test func whatWasHeldBackComesWithTheEnd() throws {
        let tokenizer = try FakeModel.tokenizer()
        let ids = tokenizer.encode("to be or")
        var machine = makeMachine(tokenizer, stop: ["or not"])
        var text = ids.map { machine.append($0).text }.joined()
        #expect(!text.hasSuffix("or"))
        text += machine.append(tokenizer.endToken).text
        #expect(text == tokenizer.decode(ids))
    }

    @Test func stopStringEndsTheText() throws {
        let tokenizer = try FakeModel.tokenizer()
        var machine = makeMachine(tokenizer, stop: ["not"])
        var text = ""
        var finish: FinishReason?
        for id in tokenizer.encode("to be or not to be") where finish == nil {
            let output = machine.append(id)
            text += output.text
            finish = output.finish
        }
        #expect(text == "to be or ")
        #expect(finish == .stop)
    }

    @Test func completionsTextContinuesItsPrompt() throws {
        let tokenizer = try FakeModel.tokenizer()
        let prompt = [tokenizer.beginToken] + tokenizer.encode("to be")
        let output = tokenizer.encode("or not")
        var machine = makeMachine(tokenizer, prompt: prompt, maximum: output.count)
        let text = output.map { machine.append($0).text }.joined()
        #expect(tokenizer.decode(prompt) + text == tokenizer.decode(prompt + output))
        #expect(text.hasPrefix(" or"))
    }
}

@Suite struct ScoreMachineTests {
    private func rows(_ range: Range<Int>, of count: Int) -> ProtoScoredRows {
        var rows = ProtoScoredRows()
        rows.position = UInt32(range.lowerBound)
        rows.top = range.map { _ in ProtoTopTokens() }
        rows.nll = range.filter { $0 + 1 < count }.map(Double.init)
        return rows
    }

    @Test func anyCutAndAnyReplayGiveTheSame() throws {
        for seed in 0..<500 {
            var random = SeededGenerator(seed: UInt64(seed))
            let count = Int.random(in: 1...40, using: &random)
            var machine = ScoreMachine(ids: (0..<count).map(Int32.init))
            var at = 0
            var response: ProtoScoreResponse?
            while response == nil {
                // A replay begins anew, with other cuts.
                if Int.random(in: 0..<6, using: &random) == 0 { at = 0 }
                let end = Int.random(in: at + 1...count, using: &random)
                response = try machine.append(rows(at..<end, of: count))
                at = end
            }
            #expect(response?.top.count == count, "seed \(seed)")
            let nlls = (0..<count - 1).map(Double.init)
            let mean = nlls.isEmpty ? 0 : nlls.reduce(0, +) / Double(nlls.count)
            #expect(response?.meanNll == mean, "seed \(seed)")
        }
    }

    @Test func foreignRowsAreAnError() {
        var machine = ScoreMachine(ids: [1, 2, 3])
        #expect(throws: RequestError.self) { _ = try machine.append(rows(1..<2, of: 3)) }
        #expect(throws: RequestError.self) { _ = try machine.append(rows(0..<4, of: 5)) }
        #expect(throws: RequestError.self) { _ = try machine.append(rows(0..<3, of: 9)) }
    }
}
