import NIOPosix
import Transport
package import Wire

/// A connection to a Tramontane cluster.
///
/// ```swift
/// let client = try await TramontaneClient.connect(host: "127.0.0.1", port: 7000)
/// for try await token in client.chat([.user("Who is there?")]) {
///     print(token.text, terminator: "")
/// }
/// await client.close()
/// ```
///
/// Any number of tasks may use one client at once; their streams share the connection and do not hold each other up.
/// The connection closes with ``close()`` or when the last reference to the client and its streams is gone.
public final class TramontaneClient: Sendable {
    let core: ClientCore
    private let apiKey: String

    private init(core: ClientCore, apiKey: String) {
        self.core = core
        self.apiKey = apiKey
    }

    deinit {
        core.close()
    }

    /// Connects to a coordinator's binary port.
    ///
    /// - Parameters:
    ///   - name: What the cluster's logs call this application.
    ///   - apiKey: Whom the requests are served for; may be empty unless the cluster has a list of tenants.
    /// - Throws: ``TramontaneError``, for example `connect_failed` or `handshake_timeout`.
    public static func connect(
        host: String, port: Int, name: String = "TramontaneClient", apiKey: String = ""
    ) async throws(TramontaneError) -> TramontaneClient {
        let core = ClientCore()
        let identity = LocalIdentity(role: .client, name: name, incarnation: UInt64.random(in: 1...UInt64.max))
        do {
            _ = try await Connector.connect(
                host: host, port: port, on: MultiThreadedEventLoopGroup.singleton.next(), identity: identity
            ) { connection in
                core.attach(connection)
                return ClientDelegate(core: core)
            }
        } catch {
            throw TramontaneError(error)
        }
        return TramontaneClient(core: core, apiKey: apiKey)
    }

    /// Closes the connection; streams that are being read fail with `client_closed`, and their work is cancelled.
    public func close() async {
        core.close()
    }

    // MARK: Generating

    /// The assistant's next turn of a chat.
    public func chat(_ messages: [ChatMessage], options: GenerationOptions = GenerationOptions()) -> TokenStream {
        var request = ProtoGenerateRequest(options)
        request.chat = ProtoChat(messages, toolsJson: options.toolsJSON)
        return stream(request)
    }

    /// The continuation of a text.
    public func complete(_ prompt: String, options: GenerationOptions = GenerationOptions()) -> TokenStream {
        var request = ProtoGenerateRequest(options)
        request.text = prompt
        return stream(request)
    }

    /// The continuation of a sequence of tokens, taken as they are.
    public func complete(tokens: [Int32], options: GenerationOptions = GenerationOptions()) -> TokenStream {
        var request = ProtoGenerateRequest(options)
        request.tokens.ids = tokens
        return stream(request)
    }

    private func stream(_ request: ProtoGenerateRequest) -> TokenStream {
        var request = request
        request.apiKey = apiKey
        return TokenStream(client: self, request: request)
    }

    // MARK: Scoring and status

    /// How likely the model finds a text.
    ///
    /// - Parameter top: How many of the best tokens are returned for every position.
    public func score(_ text: String, top: Int = 0, model: String = "") async throws -> Score {
        var request = ProtoScoreRequest()
        request.text = text
        request.top = UInt32(clamping: top)
        request.model = model
        return Score(try await scored(request))
    }

    /// How likely the model finds a sequence of tokens, taken as they are.
    public func score(tokens: [Int32], top: Int = 0, model: String = "") async throws -> Score {
        var request = ProtoScoreRequest()
        request.tokens.ids = tokens
        request.top = UInt32(clamping: top)
        request.model = model
        return Score(try await scored(request))
    }

    /// What the cluster consists of and does.
    public func status() async throws -> ClusterStatus {
        ClusterStatus(try await statusReport())
    }

    /// The score as the wire carries it.
    package func scored(_ request: ProtoScoreRequest) async throws -> ProtoScoreResponse {
        var request = request
        request.apiKey = apiKey
        let frame = try await core.call(answer: .scored) { [request] in Frame(.score, request, correlation: $0) }
        return try decoded { () throws(Failure) in try frame.message() }
    }

    /// The status as the wire carries it.
    package func statusReport() async throws -> ProtoStatusResponse {
        let frame = try await core.call(answer: .statusReport) {
            Frame(.status, ProtoStatusRequest(), correlation: $0)
        }
        return try decoded { () throws(Failure) in try frame.message() }
    }

    private func decoded<M>(_ decode: () throws(Failure) -> M) throws(TramontaneError) -> M {
        do {
            return try decode()
        } catch {
            throw TramontaneError(error)
        }
    }
}
