package import JSONText

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByDictionaryLiteral, ExpressibleByArrayLiteral,
    ExpressibleByBooleanLiteral
{
    package init(stringLiteral value: String) {
        self = .string(value)
    }

    /// Members in the order written. The names are the caller's own and differ.
    package init(dictionaryLiteral elements: (String, JSONValue)...) {
        self = .object(elements.map { Member($0.0, $0.1) })
    }

    package init(arrayLiteral elements: JSONValue...) {
        self = .array(elements)
    }

    package init(booleanLiteral value: Bool) {
        self = .bool(value)
    }

    package init(_ value: some BinaryInteger) {
        self = .integer(String(value))
    }

    /// Puts a member at the end of an object; nothing else has members.
    mutating func append(_ name: String, _ value: JSONValue) {
        guard case .object(let members) = self else { return }
        self = .object(members + [Member(name, value)])
    }
}
