import NIOCore
import Testing
import Wire

@testable import Worker

@Suite struct WorkerMachineTests {
    @Test(arguments: [
        Faults(), .repeats, .lostSteps, .badRows, .notFinite, .cutLinks, .deaths,
        [.repeats, .lostSteps, .badRows, .notFinite, .cutLinks, .deaths],
    ])
    func everyStepEndsOnceWithTheRightTokens(_ faults: Faults) throws {
        var results = 0
        var mergedHomes = 0
        for seed in UInt64(0)..<15 {
            var world = try MockWorld(seed: seed, faults: faults)
            let rests = world.run()
            world.checkAtRest()
            #expect(rests, "seed \(seed), \(faults): does not come to rest")
            #expect(world.problems.isEmpty, "seed \(seed), \(faults): \(world.problems.prefix(5))")
            guard rests, world.problems.isEmpty else { return }
            results += world.results
            mergedHomes = max(mergedHomes, world.mergedHomes)
        }
        #expect(results > 50)
        #expect(mergedHomes >= 2)
    }

    // MARK: One worker that holds everything

    private static func single(expertRows: Int = 4, layerRows: Int = 4, credits: Int = 100) throws -> WorkerMachine {
        var placement = ProtoPlacement()
        placement.epoch = 1
        var stage = ProtoStage()
        stage.layerCount = 2
        for (name, experts) in [("a", [0, 1, 2] as [UInt32]), ("b", [3, 4])] {
            var member = ProtoMember()
            member.name = name
            member.incarnation = 1
            member.dataAddress = "127.0.0.1:1"
            member.experts = experts
            stage.members.append(member)
        }
        placement.stages = [stage]
        for home in ["a", "b"] {
            var lane = ProtoLane()
            lane.workers = [home]
            placement.lanes.append(lane)
        }
        let view = try PlacementView(
            placement: placement, own: PeerID(name: "a", incarnation: 1), layerCount: 2, expertCount: 5)
        let bounds = WorkerBounds(
            pages: 8, contextLength: 128, vocabulary: 100, expertsUsed: 2, hidden: 1, rowCredits: credits)
        var machine = WorkerMachine(view: view, bounds: bounds)
        machine.expertRows = expertRows
        machine.layerRows = layerRows
        return machine
    }

    private static func step(
        _ id: UInt64, class workClass: ProtoStep.Class = .decode, sequence: UInt64, tokens: [Int32],
        position: UInt32 = 0,
        pages: [UInt32]
    ) -> ProtoStep {
        var rows = ProtoSequenceRows()
        rows.sequence = sequence
        rows.position = position
        rows.tokens = tokens
        rows.pages = pages
        rows.sample = true
        rows.sampling.topP = 1
        var step = ProtoStep()
        step.stepID = id
        step.tableSequence = id
        step.class = workClass
        step.rows = [rows]
        return step
    }

    private static func next(_ machine: inout WorkerMachine) throws -> WorkItem {
        let item = machine.nextItem()
        return try #require(item)
    }

    /// Computes one item with experts of this worker alone.
    private static func finish(_ item: WorkItem, _ machine: inout WorkerMachine) -> [WorkerAction] {
        switch item {
        case .layer(let work):
            var routes = RowRoutes()
            for _ in work.rows { routes.append(experts: [0, 1], weights: [0.5, 0.5]) }
            return machine.layerFinished(work, routes: routes)
        case .expert(let work): return machine.expertFinished(work, notFinite: [:])
        case .output(let work): return machine.outputFinished(work, result: OutputResult())
        }
    }

    @Test func prefillIsNotStarvedByDecode() throws {
        var machine = try Self.single()
        let prompt = [Int32](repeating: 1, count: 8)
        _ = machine.stepReceived(Self.step(1, class: .prefill, sequence: 1, tokens: prompt, pages: [0]))
        var next: UInt64 = 2
        var items = 0
        var isDone = false
        while !isDone {
            // There is always a decode step to prefer.
            while machine.steps.count < 3 {
                _ = machine.stepReceived(Self.step(next, sequence: next, tokens: [1], pages: [1]))
                next += 1
            }
            let item = try Self.next(&machine)
            items += 1
            for case .sendStepResult(let result) in Self.finish(item, &machine) where result.stepID == 1 {
                isDone = true
            }
            try #require(items < 2_000)
        }
        // The prompt is 2 chunks through 2 layers, 2 experts each, and the output: 14 items, each aged at most once.
        #expect(items <= 14 * (Int(WorkerMachine.ageing) + 4))
    }

    /// Nothing is read from a part of a prompt after the last layer, so none of its rows goes to experts there.
    @Test func aStepWhoseRowsGoToNoExpertGoesOn() throws {
        var machine = try Self.single()
        _ = machine.stepReceived(Self.step(1, class: .prefill, sequence: 1, tokens: [1, 2, 3], pages: [0]))
        var kinds: [String] = []
        var results: [ProtoStepResult] = []
        while machine.hasItem {
            let item = try Self.next(&machine)
            var actions: [WorkerAction]
            switch item {
            case .layer(let work):
                let isLast = work.layer == machine.view.layers.upperBound - 1
                kinds.append("layer \(work.layer)")
                var routes = RowRoutes()
                for _ in work.rows { routes.append(experts: isLast ? [-1, -1] : [0, 1], weights: [0, 0]) }
                actions = machine.layerFinished(work, routes: routes)
            case .expert(let work):
                kinds.append("expert of \(work.layer)")
                actions = Self.finish(item, &machine)
            case .output:
                kinds.append("output")
                actions = Self.finish(item, &machine)
            }
            for case .sendStepResult(let result) in actions { results.append(result) }
            try #require(kinds.count < 100)
        }
        #expect(kinds.contains("expert of 0") && kinds.last == "output")
        #expect(!kinds.contains("expert of 1"))
        #expect(results.map(\.stepID) == [1])
    }

    @Test func decodeGoesBeforePrefillAndRemoteBeforeOwn() throws {
        var machine = try Self.single()
        machine.homeJoined(HomeID(number: 1), peer: PeerID(name: "b", incarnation: 1))
        _ = machine.stepReceived(Self.step(1, class: .prefill, sequence: 1, tokens: [1, 2], pages: [0]))
        _ = machine.stepReceived(Self.step(2, class: .decode, sequence: 2, tokens: [1], pages: [1]))
        let first = try Self.next(&machine)
        guard case .layer(let work) = first else { throw Failure(code: "test", message: "\(first)") }
        #expect(work.step.step == 2)
        _ = Self.finish(first, &machine)
        // Its experts wait now, and so does a neighbour's row, of prefill and of decode.
        for (correlation, isPrefill) in [(UInt64(1), true), (2, false)] {
            let request = ExpertRequest(
                step: 1, lane: 1, layer: 0, isPrefill: isPrefill, format: .f32, rowCount: 1, columns: 1,
                assignments: [.init(expert: 2, row: 0)], rows: ByteBuffer())
            _ = machine.expertsReceived(request, correlation: correlation, format: .f32, from: HomeID(number: 1))
        }
        var order: [String] = []
        while let item = machine.nextItem(), order.count < 5 {
            switch item {
            case .expert(let work): order.append("\(work.workClass) expert \(work.expert)")
            case .layer(let work): order.append("layer of \(work.step.step)")
            case .output(let work): order.append("output of \(work.step.step)")
            }
            _ = Self.finish(item, &machine)
        }
        #expect(
            order == [
                "decode expert 2", "decode expert 0", "decode expert 1", "layer of 2", "decode expert 0",
            ])
    }

    @Test func rowsOfSeveralHomesAreOneProduct() throws {
        var machine = try Self.single(expertRows: 16)
        machine.homeJoined(HomeID(number: 1), peer: PeerID(name: "b", incarnation: 1))
        for id in UInt64(1)...2 {
            _ = machine.stepReceived(Self.step(id, sequence: id, tokens: [1, 2], pages: [UInt32(id)]))
        }
        for _ in 0..<2 {
            let item = try Self.next(&machine)
            _ = Self.finish(item, &machine)
        }
        let request = ExpertRequest(
            step: 9, lane: 1, layer: 0, isPrefill: false, format: .f32, rowCount: 3, columns: 1,
            assignments: (0..<3).map { .init(expert: 0, row: $0) }, rows: ByteBuffer())
        let actions = machine.expertsReceived(request, correlation: 5, format: .f32, from: HomeID(number: 1))
        #expect(
            actions
                == [.beginRequest(RequestKey(home: HomeID(number: 1), correlation: 5))])
        guard case .expert(let work) = machine.nextItem() else { throw Failure(code: "test", message: "no product") }
        #expect(work.expert == 0)
        #expect(work.rowCount == 2 + 2 + 3)
        let workers = machine.workers(in: work)
        #expect(workers == 2)
    }

    @Test func smallExpertsOfALayerAreComputedTogether() throws {
        var machine = try Self.single(expertRows: 16)
        machine.expertsTogether = 8
        machine.homeJoined(HomeID(number: 1), peer: PeerID(name: "b", incarnation: 1))
        for id in UInt64(1)...2 {
            _ = machine.stepReceived(Self.step(id, sequence: id, tokens: [1, 2], pages: [UInt32(id)]))
            let item = try Self.next(&machine)
            _ = Self.finish(item, &machine)
        }
        let request = ExpertRequest(
            step: 9, lane: 1, layer: 0, isPrefill: false, format: .f32, rowCount: 1, columns: 1,
            assignments: [.init(expert: 2, row: 0)], rows: ByteBuffer())
        _ = machine.expertsReceived(request, correlation: 5, format: .f32, from: HomeID(number: 1))
        // The peer's row is not kept waiting for the others.
        guard case .expert(let remote) = machine.nextItem() else { throw Failure(code: "test", message: "no product") }
        #expect(remote.expert == 2)
        var companions = machine.companions(of: remote)
        #expect(companions.isEmpty)
        _ = machine.expertFinished(remote, notFinite: [:])
        guard case .expert(let work) = machine.nextItem() else { throw Failure(code: "test", message: "no product") }
        #expect(work.expert == 0)
        // All rows of all experts together are no more than an item's.
        machine.expertRows = 7
        companions = machine.companions(of: work)
        #expect(companions.isEmpty)
        machine.expertRows = 8
        companions = machine.companions(of: work)
        #expect(companions.map(\.expert) == [1])
        for work in [work] + companions { _ = machine.expertFinished(work, notFinite: [:]) }
        guard case .layer = machine.nextItem() else { throw Failure(code: "test", message: "no layer") }
    }

    @Test func whatIsNotHeldIsRefused() throws {
        var machine = try Self.single()
        let home = HomeID(number: 1)
        machine.homeJoined(home, peer: PeerID(name: "b", incarnation: 1))
        for (layer, expert) in [(UInt32(0), UInt16(3)), (7, 0)] {
            let request = ExpertRequest(
                step: 1, lane: 1, layer: layer, isPrefill: false, format: .f32, rowCount: 1, columns: 1,
                assignments: [.init(expert: expert, row: 0)], rows: ByteBuffer())
            let actions = machine.expertsReceived(request, correlation: 1, format: .f32, from: home)
            #expect(
                actions
                    == [.refuseRequest(RequestKey(home: home, correlation: 1), .notHeld)])
        }
        let isIdle = machine.isIdle
        #expect(isIdle)
    }

    @Test func aHomeBeyondItsCreditsIsCut() throws {
        var machine = try Self.single(credits: 3)
        let home = HomeID(number: 1)
        machine.homeJoined(home, peer: PeerID(name: "b", incarnation: 1))
        let request = ExpertRequest(
            step: 1, lane: 1, layer: 0, isPrefill: false, format: .f32, rowCount: 1, columns: 1,
            assignments: [.init(expert: 0, row: 0), .init(expert: 1, row: 0)], rows: ByteBuffer())
        var actions = machine.expertsReceived(request, correlation: 1, format: .f32, from: home)
        #expect(actions.count == 1)
        actions = machine.expertsReceived(request, correlation: 2, format: .f32, from: home)
        guard case .closeHome(home, let failure) = actions.first else {
            throw Failure(code: "test", message: "\(actions)")
        }
        #expect(failure.code == "row_credits_exceeded")
    }

    @Test func foreignLanesAndStepsAreRefused() throws {
        var machine = try Self.single()
        var step = Self.step(1, sequence: 1, tokens: [1], pages: [0])
        for lane in [UInt32(1), 9, .max] {
            step.lane = lane
            guard case .sendStepFailed(let failed) = machine.stepReceived(step).first else {
                throw Failure(code: "test", message: "lane \(lane) was accepted")
            }
            #expect(failed.failure.code == "lane_foreign")
        }
        let home = HomeID(number: 4)
        machine.homeJoined(home, peer: PeerID(name: "b", incarnation: 1))
        guard case .closeHome(home, _) = machine.hiddenReceived(StepBatch(step), notFinite: [], from: home).first else {
            throw Failure(code: "test", message: "hidden state from nowhere was accepted")
        }
        step.lane = 0
        step.class = .UNRECOGNIZED(9)
        guard case .sendStepFailed(let failed) = machine.stepReceived(step).first else {
            throw Failure(code: "test", message: "class 9 was accepted")
        }
        #expect(failed.failure.code == "step_class")
    }
}
