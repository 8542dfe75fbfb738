import TestSupport
import Testing

@testable import tramontane

struct ResponseParserTests {
    private enum Seen: Equatable {
        case head(ResponseParser.Head)
        case body(String)
        case end
    }

    /// What the parser says of bytes that come in pieces of so many.
    private func parse(_ text: String, pieces: Int, closes: Bool = false) throws -> [Seen] {
        var parser = ResponseParser()
        var seen: [Seen] = []
        let bytes = Array(text.utf8)
        for start in stride(from: 0, to: bytes.count, by: pieces) {
            try bytes[start..<min(start + pieces, bytes.count)].withUnsafeBytes { bytes in
                try parser.take(bytes) { event in
                    switch event {
                    case .head(let head): seen.append(.head(head))
                    case .body(let bytes):
                        let text = String(decoding: bytes, as: UTF8.self)
                        if case .body(let before) = seen.last {
                            seen[seen.count - 1] = .body(before + text)
                        } else {
                            seen.append(.body(text))
                        }
                    case .end: seen.append(.end)
                    }
                }
            }
        }
        if closes, parser.finish() { seen.append(.end) }
        return seen
    }

    private static let stream =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + "4\r\nda\nt\r\n1A;x=1\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: 1\r\n\r\n"
        + "HTTP/1.0 429 Too Many\r\ncontent-length: \t3 \r\n\r\nno!HTTP/1.1 204 None\r\nconnection: Upgrade, Close \r\n\r\n"

    @Test(arguments: [1, 2, 3, 7, 1_000])
    func answersFollowEachOther(pieces: Int) throws {
        #expect(
            try parse(Self.stream, pieces: pieces) == [
                .head(.init(status: 200, keepsAlive: true, contentType: "text/event-stream")),
                .body("da\ntabcdefghijklmnopqrstuvwxyz"), .end,
                .head(.init(status: 429, keepsAlive: false)), .body("no!"), .end,
                .head(.init(status: 204, keepsAlive: false)), .end,
            ])
    }

    @Test func aBodyMayEndWithTheConnection() throws {
        let text = "HTTP/1.1 200 OK\r\n\r\nabc"
        #expect(try parse(text, pieces: 2).last == .body("abc"))
        #expect(try parse(text, pieces: 2, closes: true).last == .end)
        #expect(
            try parse("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", pieces: 2, closes: true).last == .body("abc"))
    }

    @Test(arguments: [
        "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/2.0 200 OK\r\n", "HTTP/1.1 abc OK\r\n", "\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n123456789\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
    ])
    func whatIsNoAnswerIsAFault(text: String) {
        #expect(throws: ResponseParser.Fault.notHTTP) { try parse(text, pieces: 5) }
    }

    @Test func aHeadHasABound() {
        let field = String(repeating: "a", count: 1_000) + ": b\r\n"
        let head = "HTTP/1.1 200 OK\r\n" + String(repeating: field, count: 70)
        #expect(throws: ResponseParser.Fault.notHTTP) { try parse(head, pieces: 4_096) }
        #expect(throws: ResponseParser.Fault.notHTTP) {
            try parse(String(repeating: "a", count: 70_000), pieces: 4_096)
        }
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func noiseNeverTraps(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var bytes = Array(Self.stream.utf8)
        for _ in 0..<3 {
            bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        _ = try? parse(String(decoding: bytes, as: UTF8.self), pieces: Int.random(in: 1...50, using: &random))
    }
}
