import Coordinator
import Foundation
import Testing

@testable import tramontane

struct TenantsFileTests {
    private static let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

    private func parse(_ text: String, everybodyReads: Bool = false) throws -> Tenants {
        try TenantsFile.parse(text, file: "t.yaml", everybodyReads: everybodyReads)
    }

    @Test func keysAndDigests() throws {
        let tenants = try parse(
            """
            tenants:
              - { name: research, sha256: \(Self.digest.uppercased()), weight: 2 }
              - name: nightly
                key: sk-1
                weight: 0.5
              - { name: plain, key: sk-2 }
            """)
        #expect(tenants.weights == ["research": 2, "nightly": 0.5, "plain": 1])
        #expect(try tenants.tenant(ofKey: "secret") == "research")
        #expect(try tenants.tenant(ofKey: "sk-1") == "nightly")
    }

    @Test func keysAreNotForEverybody() throws {
        let key = "tenants: [{ name: a, key: sk-1 }]"
        let error = #expect(throws: CommandError.self) { try parse(key, everybodyReads: true) }
        #expect(error?.message.contains("chmod 600") == true)
        _ = try parse("tenants: [{ name: a, sha256: \(Self.digest) }]", everybodyReads: true)

        let file = FileManager.default.temporaryDirectory.appending(path: "tenants-\(UUID().uuidString).yaml")
        defer { try? FileManager.default.removeItem(at: file) }
        #expect(throws: CommandError.self) { try TenantsFile.read(file.path) }
        for (permissions, isRead) in [(0o600, true), (0o644, false)] {
            let wasCreated = FileManager.default.createFile(
                atPath: file.path, contents: Data(key.utf8), attributes: [.posixPermissions: permissions])
            #expect(wasCreated)
            #expect(((try? TenantsFile.read(file.path)) != nil) == isRead)
        }
    }

    @Test func filesThatAreWrong() {
        let cases = [
            ("", "the file is empty; a list of tenants begins with \"tenants:\""),
            ("tenant: []", "did you mean \"tenants\""),
            ("tenants: []", "0 tenants, 1 to 10000 are allowed"),
            ("tenants: 5", "tenants: a list is expected"),
            ("tenants: [{ name: a }]", "tenants[0]: one of key"),
            ("tenants: [{ name: a, key: \"\" }]", "tenants[0]: one of key"),
            ("tenants: [{ name: a, key: k, sha256: \(Self.digest) }]", "tenants[0]: one of key"),
            ("tenants: [{ name: a, sha256: abc }]", "64 hexadecimal digits are expected"),
            ("tenants: [{ name: a, sha256: \(Self.digest.replacing("2", with: "g")) }]", "64 hexadecimal digits"),
            ("tenants: [{ name: a, key: k, wieght: 2 }]", "did you mean \"weight\""),
            ("tenants: [{ name: a, key: k, weight: much }]", "tenants[0].weight: a number is expected"),
            ("tenants: [{ name: a, key: k, weight: -1 }]", "weight -1.0"),
            ("tenants: [{ name: a, key: k, key: k }]", "twice"),
            ("tenants: [{ key: k }]", "tenants[0]: name is missing"),
        ]
        for (text, says) in cases {
            let error = #expect(throws: CommandError.self) { try parse(text) }
            #expect(error?.status == 64)
            #expect(error?.message.hasPrefix("t.yaml: ") == true)
            #expect(error?.message.contains(says) == true, "\(error?.message ?? "")")
        }
        let broken = #expect(throws: CommandError.self) { try parse("tenants:\n  - { name: a, key: \"sk-1") }
        #expect(broken?.message.contains("sk-1") == false, "\(broken?.message ?? "")")
    }
}
