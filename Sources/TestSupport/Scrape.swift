/// A text of `/metrics`, read.
package struct Scrape: Sendable {
    /// By name and labels, as they stand there.
    package private(set) var values: [String: Double] = [:]
    /// Names that have a TYPE.
    package private(set) var families: Set<String> = []

    package init(_ text: String) {
        for line in text.split(separator: "\n") {
            if line.hasPrefix("# TYPE ") {
                families.insert(String(line.dropFirst(7).prefix { $0 != " " }))
            } else if !line.hasPrefix("#"), let space = line.lastIndex(of: " ") {
                values[String(line[..<space])] = Double(line[line.index(after: space)...])
            }
        }
    }

    /// The value of one series; 0 where it is not there.
    package subscript(_ series: String) -> Double { values[series] ?? 0 }

    /// The sum of all series of a name whose labels hold all of these, such as `layer="0"`.
    package func sum(_ name: String, _ labels: String...) -> Double {
        values.filter { series, _ in
            let labelled = series.dropFirst(name.count)
            return series.hasPrefix(name) && (labelled.isEmpty || labelled.hasPrefix("{"))
                && labels.allSatisfy { labelled.contains($0) }
        }.values.reduce(0, +)
    }
}
