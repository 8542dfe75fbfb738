import Engine

/// What `bench` found, for programs and for people.
struct BenchReport {
    /// A model's part.
    struct Model {
        let path: String
        let name: String
        let weights: WeightMemory
        let rates: BenchRates
        /// Of the workers that the figures were measured through too; nil where they were not.
        let cluster: ClusterFloor?
        let figures: [ModelFigure]
    }

    let threads: Int
    let instructionSet: String
    var model: Model?
    var machine: MachineBench?
    var hop: HopBench?
    var importing: ImportBench?

    /// One object. A figure of a model has the peer script's name; what belongs to it shares its beginning.
    var json: String {
        JSONLine.object { object in
            object.number("threads", threads)
            object.string("instruction_set", instructionSet)
            if let model { write(model, to: &object) }
            if let machine { object.object("machine") { machine.write(to: &$0) } }
            if let hop { object.object("hop") { hop.write(to: &$0) } }
            if let importing { object.object("import") { importing.write(to: &$0) } }
        }
    }

    private func write(_ model: Model, to object: inout JSONLine.Object) {
        object.string("model", model.path)
        object.string("model_name", model.name)
        object.string("weights", model.weights.rawValue)
        object.whole("read_bytes_per_second", model.rates.readBytes)
        object.whole("int8_multiply_adds_per_second", model.rates.integers)
        object.whole("float_multiply_adds_per_second", model.rates.floats)
        if let cluster = model.cluster {
            object.whole("worker_read_bytes_per_second", cluster.one.readBytes)
            object.whole("worker_int8_multiply_adds_per_second", cluster.one.integers)
        }
        for figure in model.figures {
            let floor = figure.floorSeconds(model.rates)
            object.rounded("\(figure.name)_tokens_per_second", figure.tokensPerSecond)
            object.rounded("\(figure.name)_floor_tokens_per_second", Double(figure.tokens) / floor)
            object.rounded("\(figure.name)_fraction_of_floor", floor / figure.seconds, digits: 3)
            object.string("\(figure.name)_bound", Self.bound(figure, model.rates))
            object.number("\(figure.name)_bytes_per_step", figure.bytesPerStep)
            object.number("\(figure.name)_multiply_adds_per_step", figure.multiplyAddsPerStep)
            object.rounded("\(figure.name)_experts_per_step", figure.expertsPerStep)
            object.rounded("\(figure.name)_seconds_per_step", figure.secondsPerStep, digits: 6)
            if let cost = figure.contextCost {
                let name = "\(figure.name)_longer_than_\(cost.shortest)"
                object.rounded("\(name)_seconds_per_step", cost.seconds, digits: 6)
                object.rounded("\(name)_of_reading", cost.ofReading, digits: 3)
            }
            guard let cluster = model.cluster, let through = figure.cluster else { continue }
            let name = "\(figure.name)_workers_\(cluster.shares.count)"
            object.rounded("\(name)_tokens_per_second", Double(figure.tokens) / through.seconds)
            object.rounded("\(name)_of_one_process", through.ofOneProcess, digits: 3)
            if let floor = figure.floorSeconds(cluster) {
                object.rounded("\(name)_floor_tokens_per_second", Double(figure.tokens) / floor)
                object.rounded("\(name)_fraction_of_floor", floor / through.seconds, digits: 3)
            }
        }
    }

    var table: String {
        var parts: [String] = []
        if let machine { parts.append(machine.table(chosen: instructionSet)) }
        if let model { parts.append(table(model)) }
        if let hop { parts.append(hop.table) }
        if let importing { parts.append(importing.table) }
        return parts.joined(separator: "\n")
    }

    private func table(_ model: Model) -> String {
        let rates = model.rates
        return """
            \(model.name): \(Figure.threads(threads)), \(instructionSet), weights \(model.weights.rawValue); the machine reads \
            \(Figure.giga(rates.readBytes)) GB/s and does \(Figure.giga(rates.integers)) G int8 multiply-adds a second


            """
                + TextTable.columns([head(model)] + model.figures.map { row($0, model) })
                + model.figures.map { $0.contextCost?.sentence(of: $0.name) ?? "" }.joined()
    }

    private func head(_ model: Model) -> [String] {
        ["MEASURED", "TOK/S", "FLOOR", "OF FLOOR", "BOUND", "MS/STEP", "GB/STEP", "GMAC/STEP", "EXPERTS/STEP"]
            + (model.cluster.map { cluster in
                let one = cluster.shares.count == 1
                return [
                    "\(cluster.shares.count) WORKER\(one ? "'S" : "S'") TOK/S", "OF ONE PROCESS",
                    "OF \(one ? "ITS" : "THEIR") FLOOR",
                ]
            } ?? [])
    }

    private func row(_ figure: ModelFigure, _ model: Model) -> [String] {
        let floor = figure.floorSeconds(model.rates)
        var cells = [
            figure.name.replacing("_", with: " "), Figure.fixed(figure.tokensPerSecond, 2),
            Figure.fixed(Double(figure.tokens) / floor, 2), Figure.fixed(100 * floor / figure.seconds, 1) + "%",
            Self.bound(figure, model.rates), Figure.fixed(figure.secondsPerStep * 1e3, 3),
            Figure.fixed(Double(figure.bytesPerStep) / 1e9, 3),
            Figure.fixed(Double(figure.multiplyAddsPerStep) / 1e9, 2), Figure.fixed(figure.expertsPerStep, 1),
        ]
        if let cluster = model.cluster {
            let through = figure.cluster
            cells += [
                through.map { Figure.fixed(Double(figure.tokens) / $0.seconds, 2) } ?? "-",
                through.map { Figure.fixed($0.ofOneProcess, 2) } ?? "-",
                through.flatMap { through in
                    figure.floorSeconds(cluster).map { Figure.fixed(100 * $0 / through.seconds, 1) + "%" }
                } ?? "-",
            ]
        }
        return cells
    }

    private static func bound(_ figure: ModelFigure, _ rates: BenchRates) -> String {
        figure.isBoundByMemory(rates) ? "memory" : "arithmetic"
    }
}

extension ContextCost {
    /// A line about a figure.
    func sentence(of name: String) -> String {
        let name = name.replacing("_", with: " ")
        guard seconds > 0 else {
            return "\(name) was no slower than \(shortest): other work made the difference; try more --repeat\n"
        }
        return """
            \(name) takes \(Figure.fixed(seconds * 1e3, 3)) ms a step longer than \(shortest), \
            \(Figure.fixed(ofReading, 2)) times as long as reading its further keys and values

            """
    }
}
