/// Splits an answer's bytes, in whatever pieces they arrive, into the data of server-sent events
/// (https://html.spec.whatwg.org/multipage/server-sent-events.html). Lines end with LF or CR LF, as every server's do.
struct EventStreamParser {
    /// An event of more bytes is no event of a language model; it bounds what a server can make this side hold.
    static let maximumEventBytes = 1 << 20

    enum Fault: Error, Equatable {
        case eventTooLong
    }

    /// A line whose end has not arrived.
    private var line: [UInt8] = []
    /// The `data` lines of the event in the making.
    private var data: [UInt8] = []
    private var hasData = false

    /// - Parameter body: called for each event that is complete, with its data.
    mutating func take(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) throws(Fault) {
        var rest = bytes
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            let piece = UnsafeRawBufferPointer(rebasing: rest[..<end])
            rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
            if line.isEmpty {
                guard takeLine(piece, body) else { throw .eventTooLong }
            } else {
                line += piece
                let whole = line
                line.removeAll(keepingCapacity: true)
                guard whole.withUnsafeBytes({ takeLine($0, body) }) else { throw .eventTooLong }
            }
        }
        guard line.count + rest.count <= Self.maximumEventBytes else { throw .eventTooLong }
        line += rest
    }

    /// - Returns: whether the event is not too long.
    private mutating func takeLine(_ line: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
        var line = line
        if line.last == UInt8(ascii: "\r") { line = UnsafeRawBufferPointer(rebasing: line.dropLast()) }
        if line.isEmpty {
            guard hasData else { return true }
            hasData = false
            data.withUnsafeBytes(body)
            data.removeAll(keepingCapacity: true)
            return true
        }
        // Other fields and comments say nothing here.
        guard line.starts(with: "data:".utf8) else { return true }
        var value = line.dropFirst(5)
        if value.first == UInt8(ascii: " ") { value = value.dropFirst() }
        guard data.count + value.count <= Self.maximumEventBytes else { return false }
        if hasData { data.append(UInt8(ascii: "\n")) }
        hasData = true
        data += UnsafeRawBufferPointer(rebasing: value)
        return true
    }
}

/// What one event of an OpenAI stream says, found in one pass over its bytes: parsing each one whole would cost the
/// processor as much as the server pays for it.
struct StreamChunk: Equatable {
    /// Of the last `text` or `content` that is a string and not empty: the bytes between its quotes, as they are escaped.
    private(set) var text: Range<Int>?
    /// Of `finish_reason`, where it is a string.
    private(set) var finishReason: Range<Int>?
    /// The members that are worth parsing: `usage` or `error`, where it is an object.
    private(set) var hasUsage = false
    private(set) var hasError = false

    init(scanning bytes: UnsafeRawBufferPointer) {
        var index = 0
        /// The name of a member, once its colon was seen, until its value begins.
        var name: Range<Int>?
        while index < bytes.count {
            switch bytes[index] {
            case UInt8(ascii: "\""):
                let string = Self.string(from: index + 1, in: bytes)
                index = string.upperBound + 1
                if let member = name {
                    name = nil
                    take(string, of: UnsafeRawBufferPointer(rebasing: bytes[member]))
                } else {
                    var next = index
                    while next < bytes.count, bytes[next] == UInt8(ascii: " ") { next += 1 }
                    guard next < bytes.count, bytes[next] == UInt8(ascii: ":") else { continue }
                    name = string
                    index = next + 1
                }
            case UInt8(ascii: "{"):
                if let member = name {
                    let member = UnsafeRawBufferPointer(rebasing: bytes[member])
                    if member.elementsEqual("usage".utf8) { hasUsage = true }
                    if member.elementsEqual("error".utf8) { hasError = true }
                }
                name = nil
                index += 1
            case UInt8(ascii: " "):
                index += 1
            default:
                name = nil
                index += 1
            }
        }
    }

    private mutating func take(_ string: Range<Int>, of member: UnsafeRawBufferPointer) {
        guard !string.isEmpty else { return }
        if member.elementsEqual("text".utf8) || member.elementsEqual("content".utf8) { text = string }
        if member.elementsEqual("finish_reason".utf8) { finishReason = string }
    }

    /// - Returns: what stands before the closing quote; to the end where there is none.
    private static func string(from start: Int, in bytes: UnsafeRawBufferPointer) -> Range<Int> {
        var end = start
        while end < bytes.count, bytes[end] != UInt8(ascii: "\"") {
            end += bytes[end] == UInt8(ascii: "\\") ? 2 : 1
        }
        return start..<min(end, bytes.count)
    }
}
