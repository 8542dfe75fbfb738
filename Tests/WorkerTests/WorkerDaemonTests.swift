import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Synchronization
import Testing
import Transport
import Wire

@testable import Worker

/// Workers on loopback sockets, driven by a stub of a coordinator, against one process that holds the whole model.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct WorkerDaemonTests {
    private typealias Member = TestCluster.Member

    enum Layout: String, CaseIterable, CustomTestStringConvertible {
        case oneByTwo, twoByOne, twoByTwo, copies

        var testDescription: String { rawValue }

        func stages(experts: Int) -> [[TestCluster.Member]] {
            let all = Array(0..<experts)
            let low = Array(0..<experts / 2)
            let high = Array(experts / 2..<experts)
            switch self {
            case .oneByTwo:
                return [[.init(name: "a", experts: low), .init(name: "b", experts: high)]]
            case .twoByOne:
                return [[.init(name: "a", experts: all)], [.init(name: "b", experts: all)]]
            case .twoByTwo:
                return [
                    [.init(name: "a", experts: low), .init(name: "b", experts: high)],
                    [.init(name: "c", experts: high), .init(name: "d", experts: low)],
                ]
            case .copies:
                // The home holds nothing, and the others everything.
                return [
                    [
                        .init(name: "a", experts: []), .init(name: "b", experts: all), .init(name: "c", experts: all),
                    ]
                ]
            }
        }

        var lanes: [[String]] {
            switch self {
            case .oneByTwo: [["a"], ["b"]]
            case .twoByOne: [["a", "b"], ["a", "b"]]
            case .twoByTwo: [["a", "c"], ["b", "d"]]
            case .copies: [["a"], ["c"]]
            }
        }
    }

    private static func sampling(_ index: Int) -> ProtoSamplingParameters {
        var sampling = ProtoSamplingParameters()
        // The first of them is greedy.
        sampling.temperature = index == 0 ? 0 : 0.9
        sampling.topP = index == 1 ? 0.8 : 1
        sampling.seed = UInt64(index)
        if index == 2 {
            var bias = ProtoLogitBias()
            bias.token = 11
            bias.bias = 4
            sampling.logitBias = [bias]
        }
        return sampling
    }

    private static func check(_ cluster: TestCluster, chunk: Int) async throws {
        let vocabulary = Int32(cluster.model.manifest.shape.vocabulary)
        var prompts: [(lane: UInt32, tokens: [Int32])] = []
        for index in 0..<4 {
            var tokens: [Int32] = [1]
            for place in 0..<(5 + 11 * index) { tokens.append(Int32(7 + (place * 31 + index * 17) % 250) % vocabulary) }
            prompts.append((UInt32(index % 2), tokens))
        }
        let runner = try cluster.model.runner()
        let expected = try prompts.enumerated().map { index, prompt in
            let sampling = Self.sampling(index)
            var parameters = SamplingParameters(withoutBias: sampling)
            parameters.logitBias = sampling.logitBias.map { ($0.token, $0.bias) }
            return try runner.generate(prompt: prompt.tokens, parameters: parameters, maxTokens: 8).ids
        }
        let found = try await cluster.generate(
            prompts: prompts, sampling: prompts.indices.map(Self.sampling), count: 8, chunk: chunk)
        for (index, ids) in expected.enumerated() {
            // One process ends at </s>, the stub goes on.
            #expect(Array(found[index].prefix(ids.count)) == ids, "prompt \(index)")
        }
    }

    @Test(arguments: Layout.allCases)
    func tokensEqualThoseOfOneProcess(_ layout: Layout) async throws {
        let model = try TestModels.demo.get()
        let cluster = TestCluster(model: model)
        try await cluster.start(stages: layout.stages(experts: 8), lanes: layout.lanes)
        try await Self.check(cluster, chunk: 16)
        var remote: UInt64 = 0
        for (stage, members) in layout.stages(experts: 8).enumerated() {
            for member in members {
                let accounting = try cluster.accounting(of: member.name)
                remote += accounting.expertRowsRemote
                #expect(accounting.expertRows >= accounting.expertRowsRemote)
                // Only what the placement gave it is mapped.
                let stages = layout.stages(experts: 8).count
                let layers = stage * 6 / stages..<(stage + 1) * 6 / stages
                var allowed = Set(layers.map { model.manifest.layers[$0].dense.sha256 })
                for layer in layers {
                    for expert in member.experts { allowed.insert(model.manifest.layers[layer].experts[expert].sha256) }
                }
                if stage == 0 { allowed.insert(model.manifest.embedding.sha256) }
                if stage == stages - 1 { allowed.insert(model.manifest.head.sha256) }
                #expect(Set(accounting.mappedBlobs) == allowed)
                // Nothing but steps, results and heartbeats goes to the coordinator.
                let kinds = Set(accounting.links.filter { $0.peer == "coordinator" }.map(\.kind))
                #expect(kinds.isDisjoint(with: ["experts", "expertResults", "hidden"]))
            }
        }
        #expect((remote > 0) == (layout != .twoByOne))
        try await cluster.stop()
    }

    @Test func threeExpertsOfFiveAndChunksOfOne() async throws {
        let cluster = TestCluster(model: try TestModels.tiny.get())
        let stages = [
            [Member(name: "a", experts: [0, 2, 4]), Member(name: "b", experts: [1, 3])],
            [Member(name: "c", experts: [0, 1, 2, 3, 4])],
        ]
        // So few credits that every layer's rows go in many frames.
        try await cluster.start(stages: stages, lanes: [["a", "c"], ["b", "c"]]) { $0.rowCredits = 2 }
        try await Self.check(cluster, chunk: 1)
        try await Self.check(cluster, chunk: 40)
        try await cluster.stop()
    }

    @Test func scoresEqualThoseOfOneProcess() async throws {
        let model = try TestModels.demo.get()
        let cluster = TestCluster(model: model)
        let layout = Layout.twoByTwo
        try await cluster.start(stages: layout.stages(experts: 8), lanes: layout.lanes)
        let ids = [1] + (0..<40).map { Int32(20 + $0 * 13 % 300) }
        let expected = try model.runner().score(ids: ids, top: 3)
        var driver = TestCluster.Driver(lane: 1, sequence: 5, pages: [3, 9], sampling: Self.sampling(0))
        var top: [ProtoTopTokens] = []
        var nll: [Double] = []
        var last: ProtoScoredRows?
        for start in stride(from: 0, to: ids.count, by: 15) {
            let part = Array(ids[start..<min(start + 15, ids.count)])
            var step = ProtoStep()
            step.lane = 1
            step.class = .prefill
            step.rows = [driver.rows(part, sample: false)]
            step.rows[0].score.top = 3
            step.rows[0].score.targets = Array(ids[(start + 1)..<min(start + 16, ids.count)])
            step.rows[0].score.last = start + part.count == ids.count
            let result = try await cluster.result(of: cluster.send(step))
            let scored = try #require(result.scores.first)
            #expect(Int(scored.position) == start)
            top += scored.top
            nll += scored.nll
            last = scored
        }
        #expect(top.map { $0.tokens.map(\.token) } == expected.top.map { $0.map(\.0) })
        #expect(top.map { $0.tokens.map(\.logit.bitPattern) } == expected.top.map { $0.map(\.1.bitPattern) })
        #expect(nll.reduce(0, +) / Double(nll.count) == expected.meanNLL)
        #expect(last?.lastLogits.map(\.bitPattern) == expected.lastLogits.map(\.bitPattern))
        #expect(last?.routesLast.map { $0.experts.map { Int($0) } } == expected.routesLast.map(\.experts))
        #expect(
            last?.routesLast.map { $0.weights.map(\.bitPattern) }
                == expected.routesLast.map { $0.weights.map(\.bitPattern) })
        try await cluster.stop()
    }

    @Test func repeatsStaleEpochsGapsAndWrongRows() async throws {
        let cluster = TestCluster(model: try TestModels.tiny.get())
        let stages = [[Member(name: "a", experts: [0, 1, 2, 3, 4])], [Member(name: "b", experts: [0, 1, 2, 3, 4])]]
        try await cluster.start(stages: stages, lanes: [["a", "b"]])
        var good = TestCluster.Driver(lane: 0, sequence: 1, pages: [0], sampling: Self.sampling(0))
        var bad = TestCluster.Driver(lane: 0, sequence: 2, pages: [1], sampling: Self.sampling(0))
        var step = ProtoStep()
        step.rows = [good.rows([1, 5, 6], sample: true), bad.rows([1, 5, 9_999], sample: true)]
        cluster.resend(step, epoch: 99)
        let first = cluster.send(step)
        cluster.resend(first)
        cluster.resend(first, epoch: 0)
        let result = try await cluster.result(of: first)
        #expect(result.tokens.map(\.sequence) == [1])
        #expect(result.failures.map(\.failure.code) == ["token_range"])
        // The tables of step 3 never came.
        var late = ProtoStep()
        late.rows = [good.rows([7], sample: true)]
        late.stepID = 4
        late.tableSequence = 4
        cluster.resend(late)
        await #expect(throws: Failure.self) { try await cluster.result(of: late) }
        late.stepID = 5
        late.wholeTables = true
        late.rows[0].pages = [0]
        late.rows[0].sampling = Self.sampling(0)
        cluster.resend(late)
        let again = try await cluster.result(of: late)
        #expect(again.tokens.map(\.sequence) == [1])
        let accounting = try cluster.accounting(of: "b")
        #expect(accounting.steps == 2)
        try await cluster.stop()
    }

    /// A predecessor that is not yet noticed to be dead passes; a name that the topology does not know does not.
    @Test func whatTheCoordinatorRefusesForGoodEndsTheWorker() async throws {
        let model = try TestModels.tiny.get()
        let attempts = Mutex(0)
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: MultiThreadedEventLoopGroup.singleton,
            childLoop: MultiThreadedEventLoopGroup.singleton,
            identity: LocalIdentity(role: .unspecified, name: "coordinator", incarnation: 1), roles: [.workerControl],
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            accept: { _ throws(Failure) -> any ConnectionDelegate in
                let attempt = attempts.withLock { attempts -> Int in
                    attempts += 1
                    return attempts
                }
                throw attempt <= 2
                    ? Failure(code: "worker_duplicate", message: "a worker \"a\" is here already")
                    : Failure(code: "worker_unknown", message: "worker \"a\" is not in the topology")
            })
        let daemon = WorkerDaemon(
            configuration: WorkerConfiguration(
                name: "a", coordinatorHost: "127.0.0.1", coordinatorPort: listener.port, manifest: model.manifest,
                store: model.store, threads: 1, memoryBytes: 1 << 34),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
        let error = await #expect(throws: Failure.self) { try await daemon.run() }
        #expect(error?.code == "worker_unknown")
        #expect(error?.message.contains("127.0.0.1:\(listener.port)") == true)
        #expect(error?.message.contains("worker \"a\" is not in the topology; give --name") == true)
        #expect(attempts.withLock { $0 } == 3)
        await listener.close()
    }

    // MARK: Peers that misbehave

    /// Two members of one stage, and a connection to the first in the name of the second.
    private static func impostor(
        credits: Int = 4_096
    ) async throws -> (cluster: TestCluster, home: Connection, columns: Int, format: RowFormat) {
        let model = try TestModels.tiny.get()
        let cluster = TestCluster(model: model)
        try await cluster.start(
            stages: [[Member(name: "a", experts: [0, 1, 2, 3]), Member(name: "b", experts: [4])]],
            lanes: [["a"], ["b"]]
        ) { $0.rowCredits = credits }
        let incarnation = try #require(cluster.registered["b"]).register.incarnation
        let home = try await cluster.dial("a", role: .workerData, as: "b", incarnation: incarnation)
        return (cluster, home, model.manifest.shape.hidden, .f32)
    }

    private static func request(
        expert: UInt16, rows: Int, columns: Int, format: RowFormat, layer: UInt32 = 0, fill: UInt8 = 0
    ) -> ByteBuffer {
        ExpertRequest(
            step: 1, lane: 1, layer: layer, isPrefill: true, format: format, rowCount: rows, columns: columns,
            assignments: (0..<rows).map { .init(expert: expert, row: UInt16($0)) },
            rows: ByteBuffer(repeating: fill, count: rows * format.rowBytes(columns: columns))
        ).payload()
    }

    private static func reply(_ cluster: TestCluster, _ correlation: UInt64, columns: Int) async throws -> ExpertReply {
        let frame = try await cluster.wait { event in
            guard case .frame(let frame) = event, frame.correlation == correlation else { return nil as Frame? }
            return frame
        }
        return try ExpertReply(payload: frame.payload, columns: columns)
    }

    private static func stillServes(_ cluster: TestCluster) async throws {
        var driver = TestCluster.Driver(lane: 0, sequence: 77, pages: [5], sampling: Self.sampling(0))
        var step = ProtoStep()
        step.released = [77]
        step.rows = [driver.rows([1, 2, 3], sample: true)]
        let result = try await cluster.result(of: cluster.send(step))
        #expect(result.tokens.map(\.sequence) == [77])
    }

    @Test func rowsOfNaNComeBackAndAnExpertElsewhereIsRefused() async throws {
        let (cluster, home, columns, format) = try await Self.impostor()
        home.send(
            Frame(
                .experts, correlation: 1, epoch: cluster.epoch,
                payload: Self.request(expert: 0, rows: 3, columns: columns, format: format, fill: 0xFF)))
        let computed = try await Self.reply(cluster, 1, columns: columns)
        #expect(computed.status == .done)
        #expect(computed.rowCount == 3)
        for (correlation, expert, layer) in [(UInt64(2), UInt16(4), UInt32(0)), (3, 0, 99)] {
            home.send(
                Frame(
                    .experts, correlation: correlation, epoch: cluster.epoch,
                    payload: Self.request(expert: expert, rows: 1, columns: columns, format: format, layer: layer)))
            #expect(try await Self.reply(cluster, correlation, columns: columns).status == .notHeld)
        }
        try await Self.stillServes(cluster)
        try await cluster.stop()
    }

    @Test(arguments: ["columns", "expert", "short", "credits", "hidden"])
    func aBrokenFrameClosesItsConnectionAlone(_ fault: String) async throws {
        let (cluster, home, columns, format) = try await Self.impostor(credits: 8)
        var kind = FrameKind.experts
        var payload = Self.request(expert: 0, rows: 2, columns: columns, format: format)
        switch fault {
        case "columns": payload = Self.request(expert: 0, rows: 2, columns: columns * 2, format: format)
        case "expert": payload = Self.request(expert: 5, rows: 2, columns: columns, format: format)
        case "short": payload = try #require(payload.getSlice(at: 0, length: payload.readableBytes - 4))
        case "credits": payload = Self.request(expert: 0, rows: 9, columns: columns, format: format)
        default:
            kind = .hidden
            payload.clear()
            HiddenState.write(step: StepBatch(), columns: columns, into: &payload) { _ in }
        }
        home.send(Frame(kind, correlation: 1, epoch: cluster.epoch, payload: payload))
        let reason = try await cluster.wait { event in
            guard case .closed("a", let reason) = event else { return nil as Failure? }
            return reason
        }
        let codes = ["credits": "row_credits_exceeded", "hidden": "lane_foreign"]
        #expect(reason.code == codes[fault] ?? "rows_malformed")
        try await Self.stillServes(cluster)
        try await cluster.stop()
    }

    /// A home that asks for far more than the sockets' buffers hold and never reads: results wait for it alone.
    @Test func aPeerThatDoesNotReadHoldsUpNobody() async throws {
        let (cluster, _, columns, format) = try await Self.impostor(credits: 60_000)
        let address = try #require(
            cluster.registered["a"].flatMap { try? Address(parsing: $0.register.dataAddress) })
        var hello = ProtoHello()
        hello.role = .workerData
        hello.name = "b"
        hello.incarnation = try #require(cluster.registered["b"]).register.incarnation
        hello.numericsVersion = UInt32(cluster.model.manifest.numericsVersion)
        hello.manifestDigest = .init(cluster.model.manifest.digest)
        let channel = try await ClientBootstrap(group: cluster.group)
            .channelOption(.autoRead, value: false)
            .connect(host: address.host, port: address.port).get()
        var bytes = ByteBuffer()
        Frame(.hello, hello).write(into: &bytes)
        let rows = 2_000
        for correlation in UInt64(1)...30 {
            Frame(
                .experts, correlation: correlation, epoch: cluster.epoch,
                payload: Self.request(expert: 0, rows: rows, columns: columns, format: format)
            ).write(into: &bytes)
        }
        // 30 x 2,000 x 48 floats are 11 MB of results.
        try await channel.writeAndFlush(bytes)
        var accounting = ProtoWorkerAccounting()
        while accounting.expertRowsRemote < UInt64(30 * rows) {
            accounting = try cluster.accounting(of: "a")
            try await Self.stillServes(cluster)
        }
        try await channel.close()
        try await cluster.stop()
    }

    @Test func aWorkerThatVanishesFailsItsStepsAndTheRestGoesOn() async throws {
        let cluster = TestCluster(model: try TestModels.tiny.get())
        // "a" holds everything it needs; "b" needs "c".
        try await cluster.start(
            stages: [
                [
                    Member(name: "a", experts: [0, 1, 2, 3, 4]), Member(name: "b", experts: []),
                    Member(name: "c", experts: [0]),
                ]
            ], lanes: [["a"], ["b"]])
        var driver = TestCluster.Driver(lane: 1, sequence: 1, pages: [0], sampling: Self.sampling(0))
        var step = ProtoStep()
        step.lane = 1
        step.rows = [driver.rows([1, 2, 3], sample: true)]
        let result = try await cluster.result(of: cluster.send(step))
        #expect(result.tokens.count == 1)
        // Both other members hold expert 0, and "b" asks the first one of those that it reaches.
        await cluster.stop("a")
        let lost = try await cluster.wait { event in
            guard case .peerLost("b", let lost) = event else { return nil as ProtoPeerLost? }
            return lost
        }
        #expect(lost.name == "a")
        step.rows = [driver.rows([4], sample: true)]
        await #expect(throws: Failure.self) { try await cluster.result(of: cluster.send(step)) }
        try await cluster.stop()
    }

    @Test func aNewAssignmentOnANewConnectionKeepsTheWeights() async throws {
        let cluster = TestCluster(model: try TestModels.tiny.get())
        let stages = [[Member(name: "a", experts: [0, 1, 2]), Member(name: "b", experts: [3, 4])]]
        try await cluster.start(stages: stages, lanes: [["a"], ["b"]])
        try await Self.stillServes(cluster)
        for name in ["a", "b"] {
            let control = try #require(cluster.registered[name]).control
            cluster.forget(name)
            control.close(Failure(code: "test", message: "the coordinator goes away"))
        }
        try await cluster.assign(stages: stages, lanes: [["a"], ["b"]])
        try await Self.check(cluster, chunk: 9)
        // Another cut: other shards are loaded.
        try await cluster.assign(
            stages: [[Member(name: "b", experts: [0, 1, 2, 3, 4])], [Member(name: "a", experts: [0, 1, 2, 3, 4])]],
            lanes: [["b", "a"], ["b", "a"]])
        try await Self.check(cluster, chunk: 9)
        try await cluster.stop()
    }
}
