/// Keys of a file by their text, so that an unknown one is an error with a suggestion and not silently skipped.
package struct StrictKeys: CodingKey {
    package let stringValue: String
    package var intValue: Int? { nil }

    package init(_ text: String) { stringValue = text }
    package init?(stringValue: String) { self.stringValue = stringValue }
    package init?(intValue: Int) { nil }

    package static func container(
        of decoder: any Decoder, what: String, known: [String]
    ) throws -> KeyedDecodingContainer<StrictKeys> {
        let container = try decoder.container(keyedBy: StrictKeys.self)
        for key in container.allKeys.sorted(by: { $0.stringValue < $1.stringValue })
        where !known.contains(key.stringValue) {
            let near = known.first { $0.first == key.stringValue.first }
            let hint = near.map { "did you mean \"\($0)\"?" } ?? "known are \(known.joined(separator: ", "))"
            throw DecodingError.dataCorruptedError(
                forKey: key, in: container,
                debugDescription: "\(what): unknown key \"\(key.stringValue.prefix(64))\"; \(hint)")
        }
        return container
    }
}
