/// The form of a topology file:
///
///     stages:
///       - layers: 0-2
///         workers:
///           - name: a
///             experts: 0-3
///           - name: b
///             experts: [4, 5, 6, 7]
///
/// Layers and experts are numbers and inclusive ranges, with commas ("0-3,6") or as a list.
extension Topology: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try StrictKeys.container(of: decoder, what: "topology", known: ["stages"])
        stages = try container.decode([Stage].self, forKey: StrictKeys("stages"))
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: StrictKeys.self)
        try container.encode(stages, forKey: StrictKeys("stages"))
    }
}

extension Topology.Stage: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try StrictKeys.container(of: decoder, what: "stage", known: ["layers", "workers"])
        let key = StrictKeys("layers")
        let values = try container.decode(Numbers.self, forKey: key).values
        guard let first = values.first, let last = values.last, values.count == last - first + 1 else {
            throw DecodingError.dataCorruptedError(
                forKey: key, in: container, debugDescription: "layers: give one range, for example 0-2")
        }
        let members = try container.decode([Topology.Member].self, forKey: StrictKeys("workers"))
        self.init(layers: first..<last + 1, members: members)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: StrictKeys.self)
        try container.encode("\(layers.lowerBound)-\(layers.upperBound - 1)", forKey: StrictKeys("layers"))
        try container.encode(members, forKey: StrictKeys("workers"))
    }
}

extension Topology.Member: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try StrictKeys.container(of: decoder, what: "worker", known: ["name", "experts"])
        self.init(
            name: try container.decode(String.self, forKey: StrictKeys("name")),
            experts: try container.decode(Numbers.self, forKey: StrictKeys("experts")).values)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: StrictKeys.self)
        try container.encode(name, forKey: StrictKeys("name"))
        try container.encode(experts, forKey: StrictKeys("experts"))
    }
}

/// Small numbers, ascending, each once.
private struct Numbers: Decodable {
    /// Far more than any model has layers or experts; keeps "0-9999999999" from sizing an array.
    static let limit = 65_536

    let values: [Int]

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let found: [Int]
        // Text first: YAML's readers take 0-3 for a number too, the octal -3.
        if let text = try? container.decode(String.self) {
            found = try Self.parse(text, container)
        } else if let texts = try? container.decode([String].self) {
            found = try texts.flatMap { try Self.parse($0, container) }
        } else if let number = try? container.decode(Int.self) {
            found = [number]
        } else {
            found = try container.decode([Int].self)
        }
        guard found.count <= Self.limit, found.allSatisfy({ (0..<Self.limit).contains($0) }) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "numbers from 0 to \(Self.limit - 1) are expected")
        }
        let sorted = found.sorted()
        if let (twice, _) = zip(sorted, sorted.dropFirst()).first(where: { $0 == $1 }) {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(twice) appears twice")
        }
        values = sorted
    }

    private static func parse(_ text: String, _ container: any SingleValueDecodingContainer) throws -> [Int] {
        func invalid(_ problem: String) -> DecodingError {
            .dataCorruptedError(in: container, debugDescription: "\"\(text.prefix(64))\": \(problem)")
        }
        var values: [Int] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { piece in
                Int(piece.filter { $0 != " " })
            }
            guard let first = ends.first ?? nil, let last = ends.last ?? nil, ends.count <= 2 else {
                throw invalid("numbers and ranges like 0-3,6 are expected")
            }
            guard first <= last else {
                throw invalid("the range \(first)-\(last) ends before it begins; \(last)-\(first) may be meant")
            }
            guard last < limit, values.count <= limit else {
                throw invalid("numbers from 0 to \(limit - 1) are expected, each once")
            }
            values += first...last
        }
        return values
    }
}
