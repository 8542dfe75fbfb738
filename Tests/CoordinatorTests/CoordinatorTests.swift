import Coordinator
import Foundation
import Testing
import Tokenizer
import Transport
import Wire

@Suite(.timeLimit(.minutes(1))) struct CoordinatorTests {
    private func collect(
        _ stream: GenerationStream
    ) async throws -> (acceptance: Acceptance?, text: String, tokens: [Int32], end: (FinishReason, Usage)?) {
        var acceptance: Acceptance?
        var text = ""
        var tokens: [Int32] = []
        var end: (FinishReason, Usage)?
        for try await event in stream {
            switch event {
            case .accepted(let accepted): acceptance = accepted
            case .delta(let more, let ids):
                text += more
                tokens += ids
            case .finished(let reason, let usage): end = (reason, usage)
            }
        }
        return (acceptance, text, tokens, end)
    }

    private func expected(_ prompt: [Int32], _ count: Int) -> [Int32] {
        (0..<count).map { FakeModel.token(at: prompt.count + $0) }
    }

    @Test func completionIsStreamed() async throws {
        try await withFakeCluster { coordinator, _, _ in
            let prompt = [coordinator.tokenizer.beginToken] + coordinator.tokenizer.encode("Shall I compare thee")
            let stream = try await coordinator.submit(
                GenerationRequest(prompt: .text("Shall I compare thee"), sampling: SamplingOptions(seed: 7)))
            let answer = try await collect(stream)
            let output = expected(prompt, 16)
            #expect(answer.acceptance?.seed == 7)
            #expect(answer.acceptance?.promptTokens == prompt.count)
            #expect(answer.tokens == output)
            let whole = coordinator.tokenizer.decode(prompt + output)
            #expect(answer.text == String(whole.dropFirst(coordinator.tokenizer.decode(prompt).count)))
            #expect(answer.end?.0 == .length)
            #expect(answer.end?.1 == Usage(promptTokens: prompt.count, completionTokens: 16))
            #expect(await coordinator.status().requests.finished == 1)
        }
    }

    @Test func refusalsNameTheField() async throws {
        try await withFakeCluster { coordinator, _, _ in
            func code(_ change: (inout GenerationRequest) -> Void) async -> String? {
                var request = GenerationRequest(prompt: .text("x"))
                change(&request)
                do {
                    _ = try await coordinator.submit(request)
                    return nil
                } catch {
                    return (error as? RequestError)?.code
                }
            }
            #expect(await code { $0.model = "other" } == "model_not_found")
            #expect(await code { $0.prompt = .tokens(Array(repeating: 5, count: 1024)) } == "prompt_too_long")
            #expect(await code { $0.prompt = .tokens([]) } == "invalid_prompt")
            #expect(await code { $0.prompt = .tokens([-1]) } == "invalid_prompt")
            #expect(await code { $0.prompt = .chat([], tools: []) } == "invalid_messages")
            #expect(await code { $0.sampling.temperature = .nan } == "invalid_temperature")
            #expect(await code { $0.sampling.topP = 0 } == "invalid_top_p")
            #expect(await code { $0.sampling.minP = 2 } == "invalid_min_p")
            #expect(await code { $0.sampling.topK = -1 } == "invalid_top_k")
            #expect(await code { $0.sampling.logitBias = [(40_000, 1)] } == "invalid_logit_bias")
            #expect(await code { $0.maxTokens = -1 } == "invalid_max_tokens")
            #expect(await code { $0.stop = Array(repeating: "x", count: 10_000) } == "invalid_stop")
            #expect(await code { $0.maxTokens = .max } == "invalid_max_tokens")
            #expect(await code { $0.maxTokens = Int(Int32.max) } == nil)
            #expect(await code { $0.prompt = .text("") } == "invalid_prompt")
            #expect(await code { $0.sampling.temperature = 101 } == "invalid_temperature")
        }
    }

    @Test func strangersToAListOfTenantsAreRefused() async throws {
        let tenants = try Tenants([Tenants.Tenant(name: "a", key: "one")])
        try await withFakeCluster(change: { $0.tenants = tenants }) { _, _, address in
            let client = try await FakeClient(address)
            client.generate(1, text: "x", maxTokens: 2, credit: 9)
            let refused = await client.until(.failed)
            #expect(try refused.last?.message(ProtoFailure.self).code == "invalid_api_key")
            client.generate(2, text: "x", maxTokens: 2, credit: 9, apiKey: "one")
            #expect(await client.until(.finished, .failed).last?.kind == .finished)
            client.connection.close(nil)
        }
    }

    @Test func severalAnswersToOneRequestDifferByTheirChoice() async throws {
        try await withFakeCluster { coordinator, workers, _ in
            workers[0].hold()
            let feed = EventFeed(answers: 5)
            try await coordinator.submit(
                GenerationRequest(prompt: .text("x"), sampling: SamplingOptions(choice: 3)), choices: 4, to: feed,
                from: 1)
            workers[0].goOn()
            while await coordinator.status().requests.finished < 4 { await Task.yield() }
            var items: [EventFeed.Item] = []
            feed.take(into: &items)
            var seeds = Set<UInt64>()
            var tokens: [Int: Int] = [:]
            for case .event(let event, let answer) in items {
                switch event {
                case .accepted(let acceptance): seeds.insert(acceptance.seed)
                case .delta(_, let ids): tokens[answer, default: 0] += ids.count
                case .finished: break
                }
            }
            #expect(seeds.count == 1)
            #expect(tokens == [1: 16, 2: 16, 3: 16, 4: 16])
            #expect(workers[0].choices.sorted() == [3, 4, 5, 6])
        }
    }

    @Test func lettingGoOfTheStreamCancels() async throws {
        try await withFakeCluster { coordinator, workers, _ in
            workers[0].hold()
            var stream: GenerationStream? = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            #expect(stream != nil)
            stream = nil
            while await coordinator.status().requests.cancelled == 0 { await Task.yield() }
            workers[0].goOn()
            while await coordinator.status().lanes.first?.pagesUsed != 0 { await Task.yield() }
        }
    }

    @Test func fullQueueRefuses() async throws {
        try await withFakeCluster(change: {
            $0.queueLimit = 1
            $0.maximumSequencesPerLane = 1
        }) { coordinator, workers, _ in
            workers[0].hold()
            let first = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            while await coordinator.status().requests.running == 0 { await Task.yield() }
            let second = try await coordinator.submit(GenerationRequest(prompt: .text("y")))
            let error = await #expect(throws: RequestError.self) {
                _ = try await coordinator.submit(GenerationRequest(prompt: .text("z")))
            }
            #expect(error?.code == "queue_full")
            workers[0].goOn()
            #expect(try await collect(first).end?.0 == .length)
            #expect(try await collect(second).end?.0 == .length)
        }
    }

    @Test func manyRequestsShareSteps() async throws {
        try await withFakeCluster { coordinator, workers, _ in
            workers[0].hold()
            var streams: [GenerationStream] = []
            for _ in 0..<9 { streams.append(try await coordinator.submit(GenerationRequest(prompt: .text("x")))) }
            workers[0].goOn()
            for stream in streams { #expect(try await collect(stream).tokens.count == 16) }
            #expect(workers[0].largestBatch >= 8)
        }
    }

    @Test func deathOfAWorkerFailsItsRequestsOnly() async throws {
        try await withFakeCluster(workers: ["a", "b"]) { coordinator, workers, _ in
            for worker in workers { worker.hold() }
            let first = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            let second = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            while workers.contains(where: { $0.steps == 0 }) { await Task.yield() }
            workers[0].die()
            let error = await #expect(throws: RequestError.self) { _ = try await collect(first) }
            #expect(error?.code == "worker_lost")
            #expect(coordinator.ready)
            workers[1].goOn()
            #expect(try await collect(second).tokens.count == 16)
            workers[1].die()
            while coordinator.ready { await Task.yield() }
            let refusal = await #expect(throws: RequestError.self) {
                _ = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            }
            #expect(refusal?.code == "not_ready")
        }
    }

    @Test func returnOfAWorkerReplaysWhatRuns() async throws {
        try await withFakeCluster(workers: ["a", "b"]) { coordinator, workers, address in
            workers[0].die()
            while await coordinator.status().lanes.first?.state != "closed" { await Task.yield() }
            workers[1].hold()
            let stream = try await coordinator.submit(GenerationRequest(prompt: .text("x"), maxTokens: 40))
            while workers[1].steps == 0 { await Task.yield() }
            let back = FakeWorker(name: "a", manifest: try FakeModel.manifest())
            try await back.join(address)
            while await coordinator.status().epoch < 2 { await Task.yield() }
            // What it held belongs to the older epoch and is dropped; the replay is answered.
            workers[1].goOn()
            let answer = try await collect(stream)
            #expect(answer.tokens.count == 40)
            #expect(answer.end?.0 == .length)
        }
    }

    @Test func slowReaderIsCutOff() async throws {
        try await withFakeCluster(change: { $0.readerTokenLimit = 20 }) { coordinator, _, _ in
            let stream = try await coordinator.submit(GenerationRequest(prompt: .text("x"), maxTokens: 500))
            while await coordinator.status().requests.failed == 0 { await Task.yield() }
            let error = await #expect(throws: RequestError.self) { _ = try await collect(stream) }
            #expect(error?.code == "slow_reader")
        }
    }

    @Test func scoreIsAssembledFromChunks() async throws {
        try await withFakeCluster(change: { $0.stepTokens = 3 }) { coordinator, _, _ in
            let ids: [Int32] = [1, 10, 20, 30, 40, 50, 60]
            let response = try await coordinator.score(ScoringRequest(input: .tokens(ids), top: 2))
            #expect(response.ids == ids)
            #expect(response.top.count == ids.count)
            #expect(response.meanNll == 35)
            #expect(response.lastLogits == [1, 2, 3])
        }
    }

    @Test func statusTellsWhoHoldsWhat() async throws {
        try await withFakeCluster(workers: ["a", "b"]) { coordinator, _, _ in
            let status = await coordinator.status()
            #expect(status.ready && status.epoch == 1 && status.model == "fake")
            #expect(status.workers.map(\.name) == ["a", "b"])
            #expect(status.workers.allSatisfy { $0.state == "ready" && $0.experts == [0, 1] && $0.layerCount == 2 })
            #expect(status.lanes.map(\.workers) == [["a"], ["b"]])
            #expect(status.lanes.allSatisfy { $0.state == "open" && $0.pagesTotal == 1024 })
        }
    }

    @Test func nativeAndOpenBLASWorkersDoNotMix() async throws {
        try await withFakeCluster { coordinator, _, address in
            let other = FakeWorker(name: "z", manifest: try FakeModel.manifest())
            try await other.join(address, numericsVersion: 1 | NumericsVersion.openBLAS)
            while other.refusal == nil { await Task.yield() }
            #expect(other.refusal?.code == "numerics_mismatch")
            #expect(other.refusal?.message.contains("1 with openblas, the model is served with 1") == true)
            #expect(coordinator.ready)
        }
    }

    @Test func strangersAreRefused() async throws {
        try await withFakeCluster { coordinator, _, address in
            let stranger = FakeWorker(name: "z", manifest: try FakeModel.manifest())
            try await stranger.join(address)
            let twin = FakeWorker(name: "a", manifest: try FakeModel.manifest())
            try await twin.join(address)
            let stream = try await coordinator.submit(GenerationRequest(prompt: .text("x")))
            #expect(try await collect(stream).tokens.count == 16)
            #expect(await coordinator.status().workers.map(\.name) == ["a"])
        }
    }

    /// What is under way, what waits, and what comes later ends with the coordinator's word, over both of its doors.
    @Test func whenItStopsEveryRequestHearsWhy() async throws {
        var ends: [GenerationStream] = []
        var client: FakeClient?
        var stopped: Coordinator?
        try await withFakeCluster(change: { $0.maximumSequencesPerLane = 2 }) { coordinator, workers, address in
            stopped = coordinator
            workers[0].hold()
            let dialled = try await FakeClient(address)
            client = dialled
            for stream in 1...2 { dialled.generate(UInt64(stream), text: "x", maxTokens: 30, credit: 100) }
            for _ in 0..<2 { ends.append(try await coordinator.submit(GenerationRequest(prompt: .text("x")))) }
            var status = await coordinator.status()
            while status.requests.running < 2 || status.requests.waiting < 2 {
                await Task.yield()
                status = await coordinator.status()
            }
        }
        for stream in ends {
            let error = await #expect(throws: RequestError.self) { _ = try await collect(stream) }
            #expect(error?.code == "shutting_down")
        }
        let frames = try #require(await client?.until(.error))
        let failed = frames.filter { $0.kind == .failed }
        #expect(Set(failed.map(\.correlation)) == [1, 2])
        for frame in failed + frames.suffix(1) {
            #expect(try frame.message(ProtoFailure.self).code == "shutting_down")
        }
        let refusal = await #expect(throws: RequestError.self) {
            _ = try await stopped?.submit(GenerationRequest(prompt: .text("x")))
        }
        #expect(refusal?.code == "shutting_down")
    }

    @Test func aWorkerThatCannotBeDialledHearsAtWhichAddress() async throws {
        try await withFakeCluster { coordinator, workers, address in
            workers[0].die()
            while await coordinator.status().workers.first?.state != "lost" { await Task.yield() }
            let other = FakeWorker(name: "a", manifest: try FakeModel.manifest())
            // The coordinator's own port takes no such connections.
            try await other.join(address, dataAddress: address)
            while other.refusal == nil { await Task.yield() }
            #expect(other.refusal?.code == "data_unreachable")
            #expect(other.refusal?.message.contains("\(address): role_refused") == true)
        }
    }

    // MARK: The client plane

    @Test func clientGetsDeltasForItsCredit() async throws {
        try await withFakeCluster { coordinator, _, address in
            let client = try await FakeClient(address)
            client.generate(5, text: "x", maxTokens: 30, credit: 1)
            let first = await client.until(.delta)
            #expect(first.map(\.kind) == [.accepted, .delta])
            while await coordinator.status().requests.finished == 0 { await Task.yield() }
            // The rest was gathered into one delta, and ends with it.
            var credit = ProtoCredit()
            credit.frames = 1
            client.connection.send(Frame(.credit, credit, correlation: 5))
            let rest = await client.until(.finished)
            #expect(rest.map(\.kind) == [.delta, .finished])
            let deltas = try (first + rest).filter { $0.kind == .delta }.map { try $0.message(ProtoDelta.self) }
            let prompt = [coordinator.tokenizer.beginToken] + coordinator.tokenizer.encode("x")
            #expect(deltas.flatMap(\.tokens) == expected(prompt, 30))
            let finished = try rest[1].message(ProtoFinished.self)
            #expect(finished.reason == .length && finished.completionTokens == 30)
        }
    }

    @Test func clientCancels() async throws {
        try await withFakeCluster { coordinator, workers, address in
            workers[0].hold()
            let client = try await FakeClient(address)
            client.generate(5, text: "x", maxTokens: 30, credit: 100)
            _ = await client.until(.accepted)
            client.connection.send(Frame(.cancel, correlation: 5))
            let end = await client.until(.finished)
            #expect(try end.last?.message(ProtoFinished.self).reason == .cancelled)
            // What crosses the end is ignored.
            client.connection.send(Frame(.cancel, correlation: 5))
            client.connection.send(Frame(.status, ProtoStatusRequest(), correlation: 9))
            let report = await client.until(.statusReport, .error)
            #expect(try report.last?.message(ProtoStatusResponse.self).requests.cancelled == 1)
        }
    }

    @Test func clientThatLeavesFreesItsWork() async throws {
        try await withFakeCluster { coordinator, workers, address in
            workers[0].hold()
            let client = try await FakeClient(address)
            for stream in 1...3 { client.generate(UInt64(stream), text: "x", maxTokens: 30, credit: 100) }
            while workers[0].steps == 0 { await Task.yield() }
            client.connection.close(nil)
            while await coordinator.status().requests.cancelled < 3 { await Task.yield() }
            workers[0].goOn()
            while await coordinator.status().lanes.first?.pagesUsed != 0 { await Task.yield() }
        }
    }

    @Test func clientsFaultsCloseTheConnection() async throws {
        try await withFakeCluster { _, workers, address in
            workers[0].hold()
            let unknown = try await FakeClient(address)
            unknown.connection.send(Frame(.cancel, correlation: 77))
            let reason = await unknown.until(.error)
            #expect(try reason.last?.message(ProtoFailure.self).code == "stream_unknown")
            let duplicate = try await FakeClient(address)
            duplicate.generate(1, text: "x", maxTokens: 5, credit: 10)
            duplicate.generate(1, text: "x", maxTokens: 5, credit: 10)
            let second = await duplicate.until(.error)
            #expect(try second.last?.message(ProtoFailure.self).code == "stream_duplicate")
        }
    }

    /// What is short on the wire and large in memory is refused before it is decoded; its connection goes on.
    @Test func clientsRequestsAreCountedBeforeTheyAreDecoded() async throws {
        try await withFakeCluster { _, _, address in
            let client = try await FakeClient(address)
            var request = ProtoGenerateRequest()
            request.chat.messages = Array(repeating: ProtoChatMessage(), count: 100_000)
            client.connection.send(Frame(.generate, request, correlation: 1))
            var score = ProtoScoreRequest()
            score.text = String(repeating: "x", count: 1_000_000)
            client.connection.send(Frame(.score, score, correlation: 2))
            let first = await client.until(.failed, .error).last
            #expect(first?.correlation == 1)
            #expect(try first?.message(ProtoFailure.self).code == "invalid_messages")
            let second = await client.until(.failed, .error).last
            #expect(second?.correlation == 2)
            #expect(try second?.message(ProtoFailure.self).code == "prompt_too_long")
            client.generate(3, text: "x", maxTokens: 3, credit: 10)
            #expect(await client.until(.finished, .error).last?.correlation == 3)
        }
    }

    @Test func clientsErrorsEndTheStreamAlone() async throws {
        try await withFakeCluster { _, _, address in
            let client = try await FakeClient(address)
            var request = ProtoGenerateRequest()
            request.model = "other"
            request.text = "x"
            client.connection.send(Frame(.generate, request, correlation: 1))
            let failed = await client.until(.failed)
            #expect(try failed.last?.message(ProtoFailure.self).code == "model_not_found")
            client.generate(2, text: "x", maxTokens: 3, credit: 10)
            #expect(await client.until(.finished).last?.correlation == 2)
            var score = ProtoScoreRequest()
            score.tokens.ids = [1, 10, 20]
            client.connection.send(Frame(.score, score, correlation: 3))
            let scored = await client.until(.scored)
            #expect(try scored.last?.message(ProtoScoreResponse.self).meanNll == 15)
        }
    }
}
