import JSONText
import Testing

struct JSONValueTests {
    /// Left as a client may write it, right as Python's json.dumps(json.loads(…), ensure_ascii=False) writes it.
    @Test(arguments: [
        (#"{"b":1,"a":[true,false,null]}"#, #"{"b": 1, "a": [true, false, null]}"#),
        (#" [ ] "#, "[]"),
        ("{}", "{}"),
        (#"{"a":1,"b":2,"a":3}"#, #"{"a": 3, "b": 2}"#),
        (
            #""\u00e9\ud83e\udd91\/\"\\\b\f\n\r\t\u0000\u007f""#,
            "\"é🦑/\\\"\\\\\\b\\f\\n\\r\\t\\u0000\u{7F}\""
        ),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("-0", "0"), ("-0.0", "-0.0"), ("1.0", "1.0"), ("1.50", "1.5"), ("1e2", "100.0"),
        ("1E+2", "100.0"),
        ("1e15", "1000000000000000.0"), ("1e16", "1e+16"),
        ("123456789012345680.0", "1.2345678901234568e+17"),
        ("0.0001", "0.0001"), ("0.00001", "1e-05"), ("1.5e-7", "1.5e-07"), ("1e-320", "1e-320"),
        ("1e300", "1e+300"),
        ("0.1", "0.1"), ("12.25", "12.25"), ("9007199254740993.0", "9007199254740992.0"),
    ])
    func readAndWritten(input: String, output: String) throws {
        #expect(Array(try JSONValue(parsing: input).text.utf8) == Array(output.utf8))
    }

    @Test(arguments: [
        "", " ", "nul", "[1,]", "[1", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "01", "-", "1.",
        ".5", "1e", "+1", "1 2",
        "\"", "\"\\", "\"\\x\"", "\"\\u12g4\"", "\"\\u12", "\"\n\"", "\"\\ud800\"", "\"\\ud800x\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"", "1e999", "NaN", "[", "{",
    ])
    func refused(input: String) {
        let error = #expect(throws: JSONError.self) { try JSONValue(parsing: input) }
        #expect(error?.code == "json")
    }

    @Test func notUTF8() {
        #expect(throws: JSONError.self) { try JSONValue(parsing: [0x22, 0xFF, 0x22] as [UInt8]) }
    }

    @Test func depth() throws {
        let allowed = JSONValue.maximumDepth
        _ = try JSONValue(
            parsing: String(repeating: "[", count: allowed) + String(repeating: "]", count: allowed))
        #expect(throws: JSONError.self) {
            try JSONValue(parsing: String(repeating: "[", count: 100_000))
        }
        #expect(throws: JSONError.self) {
            try JSONValue(parsing: String(repeating: "{\"a\":", count: 100_000))
        }
    }

    @Test func namesAreComparedByTheirBytes() throws {
        let value = try JSONValue(parsing: #"{"e\u0301":1,"\u00e9":2}"#)
        #expect(value["\u{E9}"]?.integer == 2)
        #expect(value["e\u{301}"]?.integer == 1)
    }

    @Test(arguments: [
        (#"{"a":1,"b":2,"a":3}"#, 13, "a"), (#"{"x":[{"b":1,"b":1}]}"#, 13, "b"),
        // One letter in two spellings: a dictionary would lose one of them.
        (#"{"e\u0301":1,"\u00e9":2}"#, 13, "\u{E9}"),
    ])
    func repeatedNamesMayBeRefused(input: String, offset: Int, name: String) throws {
        let error = #expect(throws: JSONError.self) { try JSONValue(parsing: input.utf8, repeats: .refused) }
        #expect(error?.offset == offset)
        #expect(error?.duplicate == name)
        _ = try JSONValue(parsing: input)
    }
}
