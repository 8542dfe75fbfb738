import Engine
import ModelStore

/// The model's figures again, through workers that share its experts: the same tokens at the same positions, so the router
/// chooses the same experts, and there is as much to read and to compute.
enum ClusterBench {
    /// Seconds of the median run, by the figure's name. Contexts are left out: pages are copied within an engine only.
    static func seconds(
        model: ResolvedModel, plan: ModelBenchPlan, workers: Int, threads: Int, compute: ComputeBackend,
        weights: WeightMemory
    ) throws -> [String: Double] {
        let vocabulary = model.manifest.shape.vocabulary
        var names: [String] = []
        var runs = [
            LocalCluster.Run(steps: [[.init(position: 0, tokens: [plan.token(0, of: vocabulary)])]], pagesEach: 1)
        ]
        for length in plan.prefill {
            names += Array(repeating: "prefill_\(length)", count: plan.repeats)
            let steps = plan.prompt(length, of: vocabulary).map { part in
                [
                    LocalCluster.Rows(
                        position: part.position, tokens: part.tokens,
                        sample: part.position + part.tokens.count == length)
                ]
            }
            runs += Array(
                repeating: LocalCluster.Run(
                    steps: steps, isPrefill: true, pagesEach: ModelBenchPlan.pages(tokens: length)),
                count: plan.repeats)
        }
        for width in plan.batch {
            names += Array(repeating: "decode_batch_\(width)", count: plan.repeats)
            runs += Array(repeating: decode(plan, width: width, of: vocabulary), count: plan.repeats)
        }
        let shares = shares(of: model.manifest.shape.experts, workers: workers)
        let ready = runs
        let times = try on(
            model, workers: workers, threads: threads, compute: compute, weights: weights, pages: plan.pages
        ) {
            try await $0.run(experts: shares, homes: [0], runs: ready)
        }
        var seconds: [String: [Double]] = [:]
        // The first run warms up, and so does the first step of every decode.
        for (name, times) in zip(names, times.dropFirst()) {
            let counted = name.hasPrefix("decode") ? times.dropFirst() : times[...]
            seconds[name, default: []].append(counted.reduce(0, +))
        }
        return seconds.mapValues(Median.of)
    }

    /// Each worker's experts.
    static func shares(of experts: Int, workers: Int) -> [[Int]] {
        (0..<workers).map { Array($0 * experts / workers..<($0 + 1) * experts / workers) }
    }

    /// Where the memory of all of the workers together goes.
    static func memory(
        model: ResolvedModel, plan: ModelBenchPlan, workers: Int, compute: ComputeBackend, weights: WeightMemory
    ) throws -> MemoryPlan {
        let shape = model.manifest.shape
        let plans = try shares(of: shape.experts, workers: workers).map { experts in
            var shard = ShardSpec.whole(shape)
            shard.experts = Set(experts)
            return try MemoryPlan(
                manifest: model.manifest, shard: shard, pages: plan.pages, weightMemory: weights, compute: compute,
                stepRows: plan.stepRows)
        }
        return MemoryPlan(together: plans)
    }

    /// What it adds to a layer that a row's experts are on another worker, in microseconds: steps of one stream whose home has
    /// no expert, less steps of one whose home has them all, in turn. The same worker computes the experts either way.
    static func remoteExpertMicroseconds(
        model: ResolvedModel, plan: ModelBenchPlan, threads: Int, compute: ComputeBackend, weights: WeightMemory
    ) throws -> Double {
        let shape = model.manifest.shape
        var near = decode(plan, width: 1, of: shape.vocabulary)
        near.lane = 0
        var far = near
        far.lane = 1
        // The first of each warms up.
        let runs = (0...plan.repeats).flatMap { _ in [near, far] }
        let all = Array(0..<shape.experts)
        let times = try on(
            model, workers: 2, threads: threads, compute: compute, weights: weights, pages: plan.pages
        ) {
            try await $0.run(experts: [all, []], homes: [0, 1], runs: runs)
        }
        // Steps at the same place of runs that follow each other: what disturbs the machine for longer disturbs both.
        let differences = stride(from: 2, to: times.count - 1, by: 2).flatMap { run in
            zip(times[run + 1], times[run]).dropFirst().map { $0 - $1 }
        }
        return Median.of(differences) / Double(max(shape.layers, 1)) * 1e6
    }

    private static func decode(_ plan: ModelBenchPlan, width: Int, of vocabulary: Int) -> LocalCluster.Run {
        LocalCluster.Run(
            steps: (0...plan.decode).map { step in
                (0..<width).map {
                    LocalCluster.Rows(position: step, tokens: [plan.token(step * 31 + $0, of: vocabulary)])
                }
            }, pagesEach: ModelBenchPlan.pages(tokens: plan.decode + 1))
    }

    private static func on<Result: Sendable>(
        _ model: ResolvedModel, workers: Int, threads: Int, compute: ComputeBackend, weights: WeightMemory, pages: Int,
        _ body: @escaping @Sendable (LocalCluster) async throws -> Result
    ) throws -> Result {
        try Background.wait {
            let cluster = try await LocalCluster(
                model: model, workers: workers, threadsEach: threads, compute: compute, weights: weights, pages: pages)
            let result: Swift.Result<Result, any Error>
            do {
                result = .success(try await body(cluster))
            } catch {
                result = .failure(error)
            }
            try await cluster.stop()
            return try result.get()
        }
    }
}
