import Logging
import NIOCore
import SwiftProtobuf
import Transport
import Wire

/// One application's connection: its frames in, its streams' frames out.
final class ClientSession: ConnectionDelegate {
    let connection: Connection
    private let core: Core
    private var streams: ClientStreams
    private var isClosed = false

    init(connection: Connection, core: Core) {
        self.connection = connection
        self.core = core
        var limits = ClientStreams.Limits()
        limits.streams = core.configuration.streamsPerConnection
        limits.gatheredTokens = core.configuration.readerTokenLimit
        streams = ClientStreams(limits: limits)
        core.metrics.traffic.opened(connection, peer: CoordinatorMetrics.clients)
    }

    // MARK: Frames in

    func received(_ frame: Frame, on connection: Connection) {
        guard !isClosed else { return }
        do throws(Failure) {
            switch frame.kind {
            case .generate: try generate(frame)
            case .score: try score(frame)
            case .cancel:
                guard let request = try find(frame) else { return }
                send(streams.discard(frame.correlation))
                core.cancel(request)
            case .credit:
                guard try find(frame) != nil else { return }
                let credit = try frame.message(ProtoCredit.self)
                send(streams.grant(credit.frames, to: frame.correlation))
            case .status:
                _ = try frame.message(ProtoStatusRequest.self)
                connection.send(Frame(.statusReport, core.status(), correlation: frame.correlation))
            default:
                throw Failure(code: "frame_unexpected", message: "frame \(frame.kind.name) from a client")
            }
        } catch {
            connection.close(error)
            leave()
        }
    }

    func writabilityChanged(_ writable: Bool, on connection: Connection) {
        send(streams.writable(writable))
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        core.metrics.traffic.closed(connection)
        if let reason, reason.code == "peer_too_slow" {
            core.logger.warning("client cut off", metadata: ["reason": "\(reason)"])
        }
        // Sending may end a connection; what follows from that must not happen in the middle of a request's next token.
        connection.eventLoop.assumeIsolated().execute { self.leave() }
    }

    /// The connection is gone: nobody wants its streams any more.
    private func leave() {
        guard !isClosed else { return }
        isClosed = true
        core.clients[ObjectIdentifier(connection)] = nil
        for request in streams.requests { core.cancel(request) }
    }

    /// - Returns: the request of a stream under way; nil where it has ended.
    private func find(_ frame: Frame) throws(Failure) -> UInt64? {
        switch streams.find(frame.correlation) {
        case .request(let request): return request
        case .ended: return nil
        case .unknown:
            throw Failure(
                code: "stream_unknown",
                message: "frame \(frame.kind.name) for stream \(frame.correlation), which never was")
        }
    }

    /// - Returns: nil when the stream is refused, which it was told.
    private func open(_ frame: Frame, credit: UInt32) throws(Failure) -> UInt64? {
        let request = core.makeRequestID()
        switch streams.open(frame.correlation, request: request, credit: credit) {
        case .opened: return request
        case .tooMany:
            let error = RequestError(
                .overloaded, code: "too_many_streams",
                message: "\(streams.count) streams are under way on this connection, which is the limit")
            core.metrics.failed(code: error.code)
            connection.send(Frame(.failed, error.failure, correlation: frame.correlation))
            return nil
        case .duplicate:
            throw Failure(
                code: "stream_duplicate",
                message: "frame \(frame.kind.name) for stream \(frame.correlation), whose id was used before")
        }
    }

    private func generate(_ frame: Frame) throws(Failure) {
        if let refusal = core.check.refusal(ofGenerate: frame.payload) { return try refuse(frame, refusal) }
        let message = try frame.message(ProtoGenerateRequest.self)
        guard let id = try open(frame, credit: message.credit) else { return }
        let (check, tenants, times) = (core.check, core.configuration.tenants, RequestTimes())
        prepare(id, frame) { () throws(RequestError) in
            let request = try GenerationRequest(message, tenants: tenants)
            let prepared = try check.prepare(request, drawSeed: { UInt64.random(in: 0...UInt64.max) })
            return (prepared, ServiceTerms(request, times))
        } admit: { core, ready, sink throws(RequestError) in
            let (prepared, terms) = ready
            try core.admit(
                id: id, prompt: prepared.prompt, sampling: prepared.sampling, scoreTop: nil,
                request: Core.Request(
                    generation: prepared.machine, sink: sink, terms: terms, times: times))
        }
    }

    private func score(_ frame: Frame) throws(Failure) {
        if let refusal = core.check.refusal(ofScore: frame.payload) { return try refuse(frame, refusal) }
        let message = try frame.message(ProtoScoreRequest.self)
        // A score's answer is one frame, asked for by the request itself.
        guard let id = try open(frame, credit: 0) else { return }
        let (check, tenants, times) = (core.check, core.configuration.tenants, RequestTimes())
        prepare(id, frame) { () throws(RequestError) in
            let request = try ScoringRequest(message, tenants: tenants)
            return (try check.prepare(request), ServiceTerms(request, times))
        } admit: { core, ready, sink throws(RequestError) in
            let (prepared, terms) = ready
            try core.admit(
                id: id, prompt: prepared.ids, sampling: RequestCheck.scoring, scoreTop: prepared.top,
                request: Core.Request(
                    score: ScoreMachine(ids: prepared.ids), sink: sink, terms: terms, times: times))
        }
    }

    /// The stream begins and ends.
    private func refuse(_ frame: Frame, _ error: RequestError) throws(Failure) {
        guard try open(frame, credit: 0) != nil else { return }
        core.metrics.failed(code: error.code)
        failed(frame.correlation, error)
    }

    /// Checks and tokenises away from the loop, then admits, unless the client has gone or cancelled meanwhile.
    private func prepare<Prepared: Sendable>(
        _ id: UInt64, _ frame: Frame, work: @escaping @Sendable () throws(RequestError) -> Prepared,
        admit: @escaping @Sendable (Core, Prepared, any RequestSink) throws(RequestError) -> Void
    ) {
        let loop = core.loop
        let stream = frame.correlation
        let session = NIOLoopBound(self, eventLoop: loop)
        core.preparing.insert(id)
        let refusal = core.preparation.add(bytes: frame.payload.readableBytes) {
            let result = Result(catching: work)
            loop.execute { session.value.prepared(id, stream: stream, result, admit: admit) }
        }
        if let refusal {
            core.preparing.remove(id)
            core.metrics.failed(code: refusal.code)
            failed(stream, refusal)
        }
    }

    private func prepared<Prepared>(
        _ id: UInt64, stream: UInt64, _ result: Result<Prepared, RequestError>,
        admit: (Core, Prepared, any RequestSink) throws(RequestError) -> Void
    ) {
        let isWanted = core.preparing.remove(id) != nil
        guard !isClosed else { return }
        let sink = ClientSink(session: self, stream: stream)
        guard isWanted else {
            sink.finished(.cancelled, Usage(promptTokens: 0, completionTokens: 0))
            return
        }
        do throws(RequestError) {
            try admit(core, try result.get(), sink)
        } catch {
            core.metrics.failed(code: error.code)
            sink.failed(error)
        }
    }

    // MARK: Frames out

    private func send(_ actions: [ClientStreams.Action]) {
        for action in actions {
            switch action {
            case .delta(let stream, let delta):
                let message = ProtoDelta.with {
                    $0.text = delta.text
                    $0.tokens = delta.tokens
                }
                connection.send(Frame(.delta, message, correlation: stream))
            case .finished(let stream, let reason, let usage):
                let message = ProtoFinished.with {
                    $0.reason = ProtoFinished.Reason(reason)
                    $0.promptTokens = UInt32(clamping: usage.promptTokens)
                    $0.completionTokens = UInt32(clamping: usage.completionTokens)
                    $0.cachedTokens = UInt32(clamping: usage.cachedTokens)
                }
                connection.send(Frame(.finished, message, correlation: stream))
            }
        }
    }

    fileprivate func accepted(_ stream: UInt64, _ acceptance: Acceptance) {
        let message = ProtoAccepted.with {
            $0.requestID = acceptance.requestID
            $0.model = acceptance.model
            $0.seed = acceptance.seed
            $0.promptTokens = UInt32(clamping: acceptance.promptTokens)
        }
        connection.send(Frame(.accepted, message, correlation: stream))
    }

    fileprivate func delta(_ stream: UInt64, _ delta: ClientStreams.Delta) -> Bool {
        guard let actions = streams.append(delta, to: stream) else { return false }
        send(actions)
        return true
    }

    fileprivate func finished(_ stream: UInt64, _ reason: FinishReason, _ usage: Usage) {
        send(streams.finish(stream, reason, usage))
    }

    fileprivate func scored(_ stream: UInt64, _ response: ProtoScoreResponse) {
        streams.close(stream)
        connection.send(Frame(.scored, response, correlation: stream))
    }

    fileprivate func failed(_ stream: UInt64, _ error: RequestError) {
        streams.close(stream)
        connection.send(Frame(.failed, error.failure, correlation: stream))
    }
}

private struct ClientSink: RequestSink {
    let session: ClientSession
    let stream: UInt64

    func accepted(_ acceptance: Acceptance) {
        session.accepted(stream, acceptance)
    }

    func delta(text: String, tokens: [Int32]) -> Bool {
        session.delta(stream, ClientStreams.Delta(text: text, tokens: tokens))
    }

    func finished(_ reason: FinishReason, _ usage: Usage) {
        session.finished(stream, reason, usage)
    }

    func scored(_ response: ProtoScoreResponse) {
        session.scored(stream, response)
    }

    func failed(_ error: RequestError) {
        session.failed(stream, error)
    }
}

extension ProtoFinished.Reason {
    init(_ reason: FinishReason) {
        switch reason {
        case .stop: self = .stop
        case .length: self = .length
        case .cancelled: self = .cancelled
        }
    }
}
