import Coordinator
import Foundation
import HTTPTypes
import Hummingbird
import JSONText
import Logging
import NIOCore

extension Routes {
    /// `/v1/chat/completions` and `/v1/completions`.
    func answer(
        _ endpoint: AnswerRequest.Endpoint, _ request: Request, _ context: GatewayContext
    ) async throws -> Response {
        let tenant = try tenant(of: request)
        let body = try await collect(request)
        let decoded = try AnswerRequest(endpoint, body: body.readableBytesView, vocabularySize: served.vocabularySize)

        // Drawn here rather than by the coordinator, since several choices share it. Below 2^53, so that every JSON
        // parser can read it back.
        let seed = decoded.sampling.seed ?? UInt64.random(in: 0..<1 << 53)
        let name = UUID().uuidString.lowercased().filter { $0 != "-" }
        let answer = Answer(
            decoded,
            heading: Answer.Heading(
                endpoint: endpoint, id: (endpoint == .chatCompletions ? "chatcmpl-" : "cmpl-") + name,
                created: Int(Date().timeIntervalSince1970), model: served.name, fingerprint: served.fingerprint,
                seed: seed))
        do {
            let delivery = try await context.deliver(answer, of: decoded)
            do {
                for (index, generation) in decoded.generationRequests(seed: seed, tenant: tenant).enumerated() {
                    try await service.generate(
                        generation, choices: decoded.choices, to: delivery.feed, from: index * decoded.choices)
                }
            } catch {
                delivery.abandon()
                throw error
            }
            guard decoded.stream else { return .json(try await delivery.done.get().whole) }
            try await delivery.began.get()
            return streamed(delivery)
        } catch let error as RequestError {
            throw APIError(error, promptParameter: endpoint.promptParameter)
        } catch is AnswerDelivery.ClientLeft {
            // Nobody reads this.
            throw APIError(.badRequest, code: "client_left", message: "the client left")
        }
    }

    /// Whom the request is served for.
    func tenant(of request: Request) throws -> String {
        do {
            return try service.tenant(ofKey: request.headers.apiKey)
        } catch let error as RequestError {
            throw APIError(error, promptParameter: "prompt")
        }
    }

    private func collect(_ request: Request) async throws -> ByteBuffer {
        if let length = request.headers[.contentLength].flatMap(Int.init), length > bodyLimitBytes {
            throw APIError.bodyTooLarge(limit: bodyLimitBytes)
        }
        do {
            return try await request.body.collect(upTo: bodyLimitBytes)
        } catch is NIOTooManyBytesError {
            throw APIError.bodyTooLarge(limit: bodyLimitBytes)
        }
    }

    private func streamed(_ delivery: AnswerDelivery.Handle) -> Response {
        let body = ResponseBody { [logger] writer in
            delivery.open()
            do {
                _ = try await delivery.done.get()
            } catch let error as RequestError {
                logger.warning("stream failed", metadata: ["code": .string(error.code)])
            }
            try await writer.finish(nil)
        }
        return Response(
            status: .ok, headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-cache"],
            body: body)
    }
}

extension HTTPFields {
    /// As OpenAI's clients send it, or as others do; empty where there is none.
    fileprivate var apiKey: String {
        let words = (self[.authorization] ?? "").split(separator: " ", maxSplits: 1)
        if words.count == 2, words[0].lowercased() == "bearer" { return words[1].filter { $0 != " " } }
        return HTTPField.Name("X-API-Key").flatMap { self[$0] } ?? ""
    }
}
