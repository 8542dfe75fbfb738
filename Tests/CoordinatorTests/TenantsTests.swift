import Coordinator
import Testing
import Wire

@Suite struct TenantsTests {
    @Test func keysWithoutAList() throws {
        let tenants = Tenants()
        #expect(try tenants.tenant(ofKey: "") == Tenants.anonymous)
        // printf %s secret | sha256sum
        #expect(try tenants.tenant(ofKey: "secret") == "key-2bb80d537b1da3e3")
        #expect(tenants.weights.isEmpty)
        let error = #expect(throws: RequestError.self) {
            try tenants.tenant(ofKey: String(repeating: "k", count: 4097))
        }
        #expect(error?.code == "invalid_api_key" && error?.kind == .unauthorized)
    }

    @Test func keysOfAList() throws {
        let tenants = try Tenants([
            Tenants.Tenant(name: "a", key: "one", weight: 2), Tenants.Tenant(name: "b", key: "two"),
        ])
        #expect(try tenants.tenant(ofKey: "one") == "a" && tenants.tenant(ofKey: "two") == "b")
        #expect(tenants.weights == ["a": 2, "b": 1])
        for key in ["", "three", "ONE", "one "] {
            let error = #expect(throws: RequestError.self) { try tenants.tenant(ofKey: key) }
            #expect(error?.code == "invalid_api_key")
            #expect(key.isEmpty || error?.message.contains(key) == false, "a key is told to nobody")
        }
    }

    @Test func listsThatAreWrong() {
        let a = Tenants.Tenant(name: "a", key: "one")
        let cases: [([Tenants.Tenant], String)] = [
            ([], "0 tenants"),
            ([Tenants.Tenant(name: "", key: "one")], "a name of 0 bytes"),
            ([Tenants.Tenant(name: String(repeating: "x", count: 65), key: "one")], "a name of 65 bytes"),
            ([Tenants.Tenant(name: "a", key: "one", weight: 0)], "\"a\": weight 0.0"),
            ([Tenants.Tenant(name: "a", key: "one", weight: .nan)], "weight nan"),
            ([Tenants.Tenant(name: "a", keyDigest: [1])], "a digest of 1 bytes"),
            ([a, Tenants.Tenant(name: "a", key: "two")], "\"a\" appears twice"),
            ([a, Tenants.Tenant(name: "b", key: "one")], "\"b\" and \"a\" have the same key"),
            (Array(repeating: a, count: 10_001), "10001 tenants"),
        ]
        for (list, says) in cases {
            let error = #expect(throws: Failure.self) { _ = try Tenants(list) }
            #expect(error?.code == "tenants_invalid")
            #expect(error?.message.contains(says) == true, "\(error?.message ?? "")")
        }
    }
}
