/// The text format, version 0.0.4: names, escapes and numbers.
/// https://prometheus.io/docs/instrumenting/exposition_formats/
package enum TextFormat {
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// Longest label value, in scalars. Some come from other processes.
    package static let valueLimit = 128

    static func isName(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.enumerated().allSatisfy { isNameByte($1, first: $0 == 0) || $1 == UInt8(ascii: ":") }
    }

    private static func isNameByte(_ byte: UInt8, first: Bool) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"): true
        case UInt8(ascii: "0")...UInt8(ascii: "9"): !first
        default: false
        }
    }

    /// The label of a metric that another library made, as a name: what is not allowed becomes `_`.
    static func metricName(_ label: String) -> String {
        isName(label) ? label : name(label)
    }

    private static func name(_ text: String) -> String {
        var name =
            text.utf8.first.map { isNameByte($0, first: true) || !isNameByte($0, first: false) } ?? false ? "" : "_"
        for scalar in text.unicodeScalars {
            let isAllowed = UInt8(exactly: scalar.value).map { isNameByte($0, first: false) } ?? false
            name.unicodeScalars.append(isAllowed ? scalar : "_")
        }
        return name
    }

    /// `a="1",b="2"`, in order of the names; the later of two values of one name. It tells series apart.
    ///
    /// - Parameter isHistogram: `le` is then the buckets' own.
    static func labels(_ dimensions: [(String, String)], isHistogram: Bool) -> String {
        var values: [String: String] = [:]
        for (label, value) in dimensions {
            var name = name(label)
            // Prometheus keeps these for itself.
            if name.hasPrefix("__") { name = "_" + name.drop { $0 == "_" } }
            if isHistogram, name == "le" { name = "_le" }
            values[name] = value
        }
        return values.sorted { $0.key < $1.key }.map { "\($0)=\"\(escapedValue($1))\"" }.joined(separator: ",")
    }

    static func escapedValue(_ value: String) -> String {
        var text = ""
        for scalar in value.unicodeScalars.prefix(valueLimit) {
            switch scalar {
            case "\\": text += "\\\\"
            case "\"": text += "\\\""
            case "\n": text += "\\n"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }

    static func escapedHelp(_ help: String) -> String {
        var text = ""
        for scalar in help.unicodeScalars {
            switch scalar {
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }

    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if let whole = Int64(exactly: value) { return "\(whole)" }
        return "\(value)"
    }

    static func writeHead(_ description: MetricDescription, into text: inout String) {
        text += "# HELP \(description.name) \(escapedHelp(description.help))\n"
        text += "# TYPE \(description.name) \(description.kind.name)\n"
    }

    static func writeLine(_ name: String, _ labels: String, _ value: String, into text: inout String) {
        text += name
        if !labels.isEmpty { text += "{\(labels)}" }
        text += " \(value)\n"
    }
}
