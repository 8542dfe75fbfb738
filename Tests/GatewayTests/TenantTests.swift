import Coordinator
import Gateway
import JSONText
import Testing

/// Whose request it is, as HTTP tells it.
@Suite struct TenantTests {
    private static let body = #"{"prompt": "x"}"#

    private func service(_ tenants: Tenants) -> ScriptedService {
        ScriptedService(tenants: tenants) { _ in ScriptedService.events(ScriptedService.answer(["a"])) }
    }

    @Test func withoutAListEveryKeyIsATenant() async throws {
        let service = service(Tenants())
        try await withGateway(service) { client in
            let headers = [
                nil, "Authorization: Bearer secret", "authorization: bearer  secret", "X-API-Key: secret",
                "x-api-key: other", "Authorization: Basic c2VjcmV0", "Authorization: Bearer",
            ]
            for header in headers {
                let answer = try await client.post("/v1/completions", Self.body, header: header)
                #expect(answer.status == 200)
            }
        }
        let names = service.requests.map(\.tenant)
        let secret = "key-2bb80d537b1da3e3"
        #expect(Array(names[..<4]) == ["", secret, secret, secret])
        #expect(names[4].hasPrefix("key-") && names[4] != secret)
        #expect(Array(names[5...]) == ["", ""], "what is no key")
    }

    @Test func withAListOthersAreRefused() async throws {
        let service = service(try Tenants([Tenants.Tenant(name: "research", key: "secret", weight: 2)]))
        try await withGateway(service) { client in
            for header in [nil, "Authorization: Bearer wrong", "X-API-Key: \(String(repeating: "k", count: 5000))"] {
                let answers = [
                    try await client.post("/v1/completions", Self.body, header: header),
                    try await client.post("/v1/chat/completions", "{", header: header),
                    try await client.get("/v1/models", header: header),
                    try await client.get("/v1/models/org/demo", header: header),
                ]
                for answer in answers {
                    #expect(answer.status == 401)
                    #expect(answer.headers["www-authenticate"] == "Bearer")
                    #expect(answer.error?["code"]?.string == "invalid_api_key")
                    #expect(answer.error?["type"]?.string == "invalid_request_error")
                }
            }
            let health = try await client.get("/health")
            #expect(health.status == 200)
            let answer = try await client.post("/v1/completions", Self.body, header: "Authorization: Bearer secret")
            #expect(answer.status == 200)
        }
        #expect(service.requests.map(\.tenant) == ["research"])
    }
}
