import ArgumentParser

/// Numbers within limits, for `@Option(transform:)`. Their options parse unconditionally: `--workers -1` has a value, and
/// it is the value that is wrong.
enum NumberParsing {
    static func count(_ text: String, _ range: ClosedRange<Int>) throws -> Int {
        guard let value = Int(text), range.contains(value) else {
            throw ValidationError("\(text) is not a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// At least 1.
    static func positive(_ text: String) throws -> Int {
        try count(text, 1...(1 << 30))
    }

    static func threads(_ text: String) throws -> Int {
        try count(text, 1...4096)
    }

    static func seed(_ text: String) throws -> UInt64 {
        guard let value = UInt64(text) else {
            throw ValidationError("\(text) is not a whole number from 0 to \(UInt64.max)")
        }
        return value
    }

    /// Read as JSON numbers are over HTTP, to a double and then rounded, so that the same digits give the same request.
    static func float(_ text: String) throws -> Float {
        guard let value = Double(text) else { throw ValidationError("\(text) is not a number") }
        return Float(value)
    }

    /// Bytes, with a unit where one is written: `8GiB`, `512M`, `1073741824`.
    static func bytes(_ text: String) throws -> UInt64 {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count).lowercased().replacing("ib", with: "").replacing("b", with: "")
        let shifts = ["": 0, "k": 10, "m": 20, "g": 30, "t": 40]
        guard let value = UInt64(digits), value > 0, let shift = shifts[unit], value <= UInt64.max >> UInt64(shift)
        else {
            throw ValidationError("\(text) is not a size, such as 8GiB")
        }
        return value << UInt64(shift)
    }
}

/// Numbers in one argument, with commas or spaces between them: the environment and the configuration file have one value
/// for an option that takes several arguments on the command line.
struct NumberList: Equatable {
    let numbers: [Int]

    init(_ text: String, _ range: ClosedRange<Int>) throws {
        numbers = try text.split { $0 == "," || $0 == " " }.map { try NumberParsing.count(String($0), range) }
        guard !numbers.isEmpty else { throw ValidationError("\"\(text)\" has no numbers") }
    }
}
