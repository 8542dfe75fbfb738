/// Takes the answers of an HTTP/1.1 server (RFC 9112) apart, in whatever pieces they arrive: a value without I/O that looks at each
/// byte of a stream once, because the client that measures shares the processors with what it measures.
struct ResponseParser {
    enum Event {
        case head(Head)
        /// Some of the body, as it lies in the bytes that arrived.
        case body(UnsafeRawBufferPointer)
        /// The answer is complete.
        case end
    }

    struct Head: Equatable {
        var status = 0
        var keepsAlive = true
        var contentType = ""
    }

    enum Fault: Error, Equatable {
        /// What came is no answer.
        case notHTTP
    }

    /// Far more than any head or chunk size of a server for language models: it bounds what a server can make this side hold.
    static let longestHead = 64 << 10

    private enum Phase {
        case head
        /// Bytes of the body that are yet to come.
        case body(left: Int)
        /// The body ends with the connection.
        case bodyToTheEnd
        case chunkSize
        case chunk(left: Int)
        /// The line end after a chunk.
        case chunkEnd
        case trailer
    }

    private var phase = Phase.head
    /// A line whose end has not arrived.
    private var line: [UInt8] = []
    private var headBytes = 0
    private var head = Head()
    private var hasStatus = false
    private var contentLength: Int?
    private var isChunked = false

    /// - Parameter body: called with what the bytes say, in order.
    mutating func take(_ bytes: UnsafeRawBufferPointer, _ body: (Event) -> Void) throws(Fault) {
        var rest = bytes[...]
        while !rest.isEmpty {
            switch phase {
            case .body(let left):
                let piece = rest.prefix(left)
                rest = rest.dropFirst(piece.count)
                phase = .body(left: left - piece.count)
                body(.body(UnsafeRawBufferPointer(rebasing: piece)))
                if piece.count == left { end(body) }
            case .bodyToTheEnd:
                body(.body(UnsafeRawBufferPointer(rebasing: rest)))
                rest = rest.dropFirst(rest.count)
            case .chunk(let left):
                let piece = rest.prefix(left)
                rest = rest.dropFirst(piece.count)
                phase = piece.count == left ? .chunkEnd : .chunk(left: left - piece.count)
                body(.body(UnsafeRawBufferPointer(rebasing: piece)))
            case .head, .chunkSize, .chunkEnd, .trailer:
                guard let newline = rest.firstIndex(of: UInt8(ascii: "\n")) else {
                    guard line.count + rest.count <= Self.longestHead else { throw .notHTTP }
                    line += rest
                    return
                }
                let piece = rest[..<newline]
                rest = rest[(newline + 1)...]
                if line.isEmpty {
                    try takeLine(UnsafeRawBufferPointer(rebasing: piece), body)
                } else {
                    line += piece
                    let whole = line
                    line.removeAll(keepingCapacity: true)
                    let fault = whole.withUnsafeBytes { bytes -> Fault? in
                        do throws(Fault) {
                            try takeLine(bytes, body)
                            return nil
                        } catch {
                            return error
                        }
                    }
                    if let fault { throw fault }
                }
            }
        }
    }

    /// The connection has ended.
    ///
    /// - Returns: whether an answer ended with it.
    mutating func finish() -> Bool {
        guard case .bodyToTheEnd = phase else { return false }
        self = ResponseParser()
        return true
    }

    private mutating func takeLine(_ line: UnsafeRawBufferPointer, _ body: (Event) -> Void) throws(Fault) {
        var line = line
        if line.last == UInt8(ascii: "\r") { line = UnsafeRawBufferPointer(rebasing: line.dropLast()) }
        switch phase {
        case .chunkSize:
            guard let size = Self.chunkSize(line) else { throw .notHTTP }
            phase = size == 0 ? .trailer : .chunk(left: size)
        case .chunkEnd:
            guard line.isEmpty else { throw .notHTTP }
            phase = .chunkSize
        case .trailer:
            if line.isEmpty { end(body) }
        default:
            try takeHead(line, body)
        }
    }

    private mutating func takeHead(_ line: UnsafeRawBufferPointer, _ body: (Event) -> Void) throws(Fault) {
        headBytes += line.count + 1
        guard headBytes <= Self.longestHead else { throw .notHTTP }
        guard line.isEmpty else {
            try hasStatus ? takeField(String(decoding: line, as: UTF8.self)) : takeStatus(line)
            return
        }
        guard hasStatus else { throw .notHTTP }
        let head = head
        let (length, isChunked) = (contentLength, isChunked)
        self = ResponseParser()
        // 100 Continue and its like announce the answer; they are not it.
        guard head.status >= 200 else { return }
        body(.head(head))
        if head.status == 204 || head.status == 304 {
            end(body)
        } else if isChunked {
            phase = .chunkSize
        } else if let length {
            phase = .body(left: length)
            if length == 0 { end(body) }
        } else {
            phase = .bodyToTheEnd
        }
    }

    private mutating func takeStatus(_ line: UnsafeRawBufferPointer) throws(Fault) {
        guard line.count >= 12, line.starts(with: "HTTP/1.".utf8), line[8] == UInt8(ascii: " "),
            let status = Int(String(decoding: line[9..<12], as: UTF8.self)), (100...999).contains(status)
        else { throw .notHTTP }
        head.status = status
        head.keepsAlive = line[7] != UInt8(ascii: "0")
        hasStatus = true
    }

    private mutating func takeField(_ field: String) throws(Fault) {
        guard let colon = field.firstIndex(of: ":") else { throw .notHTTP }
        let value = Self.trimmed(field[field.index(after: colon)...])
        switch field[..<colon].lowercased() {
        case "content-type":
            head.contentType = String(value)
        case "content-length":
            guard let length = Int(value), length >= 0 else { throw .notHTTP }
            contentLength = length
        case "transfer-encoding":
            isChunked = value.lowercased().hasSuffix("chunked")
        case "connection":
            let options = value.lowercased().split(separator: ",").map(Self.trimmed)
            if options.contains("close") { head.keepsAlive = false }
        default:
            break
        }
    }

    /// Without the white space around it (RFC 9110, 5.5).
    private static func trimmed(_ text: Substring) -> Substring {
        func isBlank(_ character: Character) -> Bool { character == " " || character == "\t" }
        var rest = text.drop(while: isBlank)
        while let last = rest.last, isBlank(last) { rest.removeLast() }
        return rest
    }

    /// The number that a chunk begins with; an extension may follow it.
    private static func chunkSize(_ line: UnsafeRawBufferPointer) -> Int? {
        var size = 0
        var digits = 0
        for byte in line {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            case UInt8(ascii: ";"), UInt8(ascii: " "): return digits > 0 ? size : nil
            default: return nil
            }
            digits += 1
            guard digits <= 8 else { return nil }
            size = size << 4 | Int(digit)
        }
        return digits > 0 ? size : nil
    }

    private mutating func end(_ body: (Event) -> Void) {
        self = ResponseParser()
        body(.end)
    }
}
