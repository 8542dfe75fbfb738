import Engine
import ModelStore

/// The model's runs through workers that share its experts: the same tokens at the same positions, so the router chooses the
/// same experts, and there is as much to read and to compute.
struct ClusterBench {
    private let cluster: LocalCluster
    private let plan: ModelBenchPlan
    private let vocabulary: Int

    /// Starts workers of `threads` threads each, does `body`, and ends them.
    static func with<Result>(
        model: ResolvedModel, plan: ModelBenchPlan, workers: Int, threads: Int, compute: ComputeBackend,
        weights: WeightMemory, _ body: (ClusterBench) throws -> Result
    ) throws -> Result {
        let shape = model.manifest.shape
        return try on(
            model, experts: shares(of: shape.experts, workers: workers), homes: [0], threads: threads, compute: compute,
            weights: weights, pages: plan.pages
        ) { cluster in
            let bench = ClusterBench(cluster: cluster, plan: plan, vocabulary: shape.vocabulary)
            // It warms up.
            _ = try bench.times(bench.prompt(1))
            return try body(bench)
        }
    }

    /// The seconds of a run. A decode's first step is not timed.
    func seconds(_ run: BenchRun) throws -> Double {
        switch run {
        case .prefill(let length): try times(prompt(length)).reduce(0, +)
        case .batch(let width): try times(Self.decode(plan, width: width, of: vocabulary)).dropFirst().reduce(0, +)
        }
    }

    private func times(_ run: LocalCluster.Run) throws -> [Double] {
        let cluster = cluster
        return try Background.wait { try await cluster.run([run]) }[0]
    }

    private func prompt(_ length: Int) -> LocalCluster.Run {
        LocalCluster.Run(
            steps: plan.prompt(length, of: vocabulary).map { part in
                [
                    LocalCluster.Rows(
                        position: part.position, tokens: part.tokens,
                        sample: part.position + part.tokens.count == length)
                ]
            }, isPrefill: true, pagesEach: ModelBenchPlan.pages(tokens: length))
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
    /// no expert, less steps of one whose home has them all, which take turns. The same worker computes the experts either way.
    static func remoteExpertMicroseconds(
        model: ResolvedModel, plan: ModelBenchPlan, threads: Int, compute: ComputeBackend, weights: WeightMemory
    ) throws -> Double {
        let shape = model.manifest.shape
        let run = decode(plan, width: 1, of: shape.vocabulary)
        return try on(
            model, experts: [Array(0..<shape.experts), []], homes: [0, 1], threads: threads, compute: compute,
            weights: weights, pages: plan.pages
        ) { cluster in
            // As many steps near first as far first.
            let counted = max(plan.decode - plan.decode % 2, 1)
            var differences: [Double] = []
            for _ in 0..<plan.repeats {
                let times = try Background.wait { try await cluster.run([run, run]) }
                differences += zip(times[1], times[0]).suffix(counted).map { $0 - $1 }
            }
            return Median.of(differences) / Double(max(shape.layers, 1)) * 1e6
        }
    }

    private static func decode(_ plan: ModelBenchPlan, width: Int, of vocabulary: Int) -> LocalCluster.Run {
        LocalCluster.Run(
            steps: (0...plan.decode).map { step in
                (0..<width).map {
                    LocalCluster.Rows(position: step, tokens: [plan.token(step * 31 + $0, of: vocabulary)])
                }
            }, pagesEach: ModelBenchPlan.pages(tokens: plan.decode + 1))
    }

    private static func on<Result>(
        _ model: ResolvedModel, experts: [[Int]], homes: [Int], threads: Int, compute: ComputeBackend,
        weights: WeightMemory, pages: Int, _ body: (LocalCluster) throws -> Result
    ) throws -> Result {
        let cluster = try Background.wait {
            try await LocalCluster(
                model: model, experts: experts, homes: homes, threadsEach: threads, compute: compute, weights: weights,
                pages: pages)
        }
        let result = Swift.Result { try body(cluster) }
        let stopped = Swift.Result { try Background.wait { try await cluster.stop() } }
        return try result.flatMap { result in stopped.map { result } }.get()
    }
}
