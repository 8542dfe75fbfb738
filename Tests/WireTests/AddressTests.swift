import Testing
import Wire

@Suite struct AddressTests {
    @Test func read() throws {
        #expect(try Address(parsing: "127.0.0.1:0", ports: 0...65_535) == Address(host: "127.0.0.1", port: 0))
        #expect(try Address(parsing: "[::1]:7000") == Address(host: "::1", port: 7000))
        #expect(try Address(parsing: "[::1]:7000").description == "[::1]:7000")
        #expect(try Address(parsing: "node-1:65535").description == "node-1:65535")
    }

    @Test(arguments: [
        ("", "has no port"), ("127.0.0.1", "\"127.0.0.1\" has no port, HOST:PORT is wanted"),
        (":80", "has no host"), ("[]:80", "has no host"), ("::1:80", "an IPv6 address is written [ADDRESS]:PORT"),
        ("host:", "from 1 to 65535"), ("host:0", "from 1 to 65535"), ("host:70000", "\"host:70000\": the port"),
        ("host:-1", "from 1 to 65535"), ("host:+1", "from 1 to 65535"), ("host:x", "from 1 to 65535"),
        ("host:99999999999999999999", "from 1 to 65535"),
        (String(repeating: "a", count: 1000), "\"" + String(repeating: "a", count: 64) + "…\" has no port"),
    ])
    func refused(text: String, says: String) {
        let failure = #expect(throws: Failure.self) { try Address(parsing: text) }
        #expect(failure?.code == "address_invalid")
        #expect(failure?.message.contains(says) == true, "\(failure?.message ?? "")")
    }
}
