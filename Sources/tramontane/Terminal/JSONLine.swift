import JSONText

/// Writes one line of JSON, without spaces, numbers so that they read back to the same bits.
struct JSONLine {
    private(set) var text = ""

    static func object(_ body: (inout Object) -> Void) -> String {
        var line = JSONLine()
        line.object(body)
        return line.text + "\n"
    }

    /// The members of an object.
    struct Object {
        fileprivate var line: JSONLine
        fileprivate var isFirst = true

        mutating func member(_ name: String, _ write: (inout JSONLine) -> Void) {
            if !isFirst { line.text += "," }
            isFirst = false
            line.string(name)
            line.text += ":"
            write(&line)
        }

        mutating func string(_ name: String, _ value: String) { member(name) { $0.string(value) } }
        mutating func number(_ name: String, _ value: some BinaryInteger) { member(name) { $0.number(value) } }
        mutating func bool(_ name: String, _ value: Bool) { member(name) { $0.text += value ? "true" : "false" } }
        mutating func double(_ name: String, _ value: Double) { member(name) { $0.number(value) } }

        mutating func numbers(_ name: String, _ values: some Sequence<some BinaryInteger>) {
            member(name) { $0.array(values) { $0.number($1) } }
        }

        mutating func object(_ name: String, _ body: (inout Object) -> Void) {
            member(name) { $0.object(body) }
        }

        mutating func objects<Element>(
            _ name: String, _ values: some Sequence<Element>, _ body: (inout Object, Element) -> Void
        ) {
            member(name) { line in
                line.array(values) { line, value in line.object { body(&$0, value) } }
            }
        }
    }

    mutating func object(_ body: (inout Object) -> Void) {
        text += "{"
        var object = Object(line: self)
        // The text has one owner at a time, or every append would copy it.
        text = ""
        body(&object)
        self = object.line
        text += "}"
    }

    mutating func array<Element>(_ values: some Sequence<Element>, _ body: (inout JSONLine, Element) -> Void) {
        text += "["
        var isFirst = true
        for value in values {
            if !isFirst { text += "," }
            isFirst = false
            body(&self, value)
        }
        text += "]"
    }

    /// An array of two.
    mutating func pair(_ first: (inout JSONLine) -> Void, _ second: (inout JSONLine) -> Void) {
        text += "["
        first(&self)
        text += ","
        second(&self)
        text += "]"
    }

    mutating func string(_ value: String) {
        text += JSONValue.string(value).text
    }

    mutating func number(_ value: some BinaryInteger) {
        text += String(value)
    }

    /// Swift's description is the shortest text that reads back to the same bits. JSON has no infinity and no NaN.
    mutating func number(_ value: some BinaryFloatingPoint & CustomStringConvertible) {
        text += value.isFinite ? value.description : "null"
    }
}
