import Wire

/// What a stream's reader gets, in this order: one acceptance, tokens, one outcome.
enum StreamItem: Equatable {
    case accepted(Acceptance)
    case token(Token)
    case finished(Outcome)
}

/// All streams and calls of one connection, without I/O and without tasks.
///
/// A stream lives from its request to its terminal frame (`finished` or `failed`), and its id is never used again. The
/// server may have as many unread `delta` frames on the way as it has credit for, so a stream's buffer is bounded by its
/// window; the reader's progress becomes new credit.
///
/// `Reader` and `Caller` stand for whoever waits (continuations; numbers in tests).
struct ClientStateMachine<Reader, Caller> {
    /// Delta frames of one stream that the server may send ahead of the reader. 64 hides any round trip and bounds the
    /// buffer to a few kilobytes.
    static var window: UInt32 { 64 }

    enum Action {
        case send(Frame)
        case resumeReader(Reader, Result<StreamItem, any Error>)
        case resumeCaller(Caller, Result<Frame, TramontaneError>)
        /// The peer broke the protocol.
        case close(Failure)
    }

    private struct Stream {
        var isAccepted = false
        var buffer: [StreamItem] = []
        var read = 0
        var failure: TramontaneError?
        var isTerminated = false
        var reader: Reader?
        /// Delta frames that may still come.
        var credit = ClientStateMachine.window
        /// Delta frames that were read and not yet given back as credit.
        var unreturned: UInt32 = 0
    }

    private enum Entry {
        /// A call that has not been sent.
        case reserved
        case stream(Stream)
        /// Its reader has gone; what still comes is dropped, up to the terminal frame.
        case cancelled
        case call(Caller, answer: FrameKind)
    }

    private var entries: [UInt64: Entry] = [:]
    private var lastID: UInt64 = 0
    private var ending: TramontaneError?

    /// Streams and calls that wait for frames.
    var openCount: Int { entries.count }

    /// Largest number of unread items of any stream.
    var largestBuffer: Int {
        entries.values.reduce(0) { largest, entry in
            if case .stream(let stream) = entry { max(largest, stream.buffer.count - stream.read) } else { largest }
        }
    }

    // MARK: This side's events

    /// Opens a stream. The frame has to be sent before anything else that names the id.
    mutating func open(_ request: ProtoGenerateRequest) throws(TramontaneError) -> (id: UInt64, request: Frame) {
        if let ending { throw ending }
        lastID += 1
        entries[lastID] = .stream(Stream())
        var request = request
        request.credit = Self.window
        return (lastID, Frame(.generate, request, correlation: lastID))
    }

    /// An id for a call, so that the call can be cancelled from the moment it begins.
    mutating func reserve() -> UInt64 {
        lastID += 1
        if ending == nil { entries[lastID] = .reserved }
        return lastID
    }

    /// Sends the request of a reserved call, which has one answer.
    mutating func call(_ id: UInt64, _ request: Frame, answer: FrameKind, caller: Caller) -> [Action] {
        guard case .reserved? = entries[id] else {
            return [.resumeCaller(caller, .failure(ending ?? Self.cancelled))]
        }
        entries[id] = .call(caller, answer: answer)
        return [.send(request)]
    }

    /// The stream's reader wants the next item. A stream has one reader at a time.
    mutating func next(_ id: UInt64, reader: Reader) -> [Action] {
        guard case .stream(var stream)? = entries[id] else {
            return [.resumeReader(reader, .failure(ending ?? CancellationError() as any Error))]
        }
        guard stream.read < stream.buffer.count else {
            if let failure = stream.failure {
                entries[id] = nil
                return [.resumeReader(reader, .failure(failure))]
            }
            guard stream.reader == nil else {
                let failure = TramontaneError(code: "reader_busy", message: "two tasks read one stream at once")
                return [.resumeReader(reader, .failure(failure))]
            }
            stream.reader = reader
            entries[id] = .stream(stream)
            return []
        }
        let item = stream.buffer[stream.read]
        stream.read += 1
        if stream.read == stream.buffer.count {
            stream.buffer.removeAll(keepingCapacity: true)
            stream.read = 0
        }
        var actions: [Action] = [.resumeReader(reader, .success(item))]
        actions += taken(item, of: id, &stream)
        return actions
    }

    /// The reader of a stream, or the caller of a call, has gone.
    mutating func cancel(_ id: UInt64) -> [Action] {
        switch entries[id] {
        case .stream(let stream)?:
            entries[id] = stream.isTerminated ? nil : .cancelled
            var actions: [Action] = stream.isTerminated ? [] : [.send(Frame(.cancel, correlation: id))]
            if let reader = stream.reader {
                actions.append(.resumeReader(reader, .failure(CancellationError())))
            }
            return actions
        case .call(let caller, _)?:
            entries[id] = .cancelled
            return [.send(Frame(.cancel, correlation: id)), .resumeCaller(caller, .failure(Self.cancelled))]
        case .reserved?:
            entries[id] = nil
            return []
        case .cancelled?, nil:
            return []
        }
    }

    /// The connection is over. Items that streams have received can still be read.
    mutating func closed(_ reason: TramontaneError) -> [Action] {
        guard ending == nil else { return [] }
        ending = reason
        var actions: [Action] = []
        for (id, entry) in entries {
            switch entry {
            case .stream(var stream):
                if let reader = stream.reader {
                    actions.append(.resumeReader(reader, .failure(reason)))
                    entries[id] = nil
                } else if !stream.isTerminated {
                    stream.isTerminated = true
                    stream.failure = reason
                    entries[id] = .stream(stream)
                }
            case .cancelled, .reserved:
                entries[id] = nil
            case .call(let caller, _):
                actions.append(.resumeCaller(caller, .failure(reason)))
                entries[id] = nil
            }
        }
        return actions
    }

    // MARK: The server's events

    mutating func received(_ frame: Frame) -> [Action] {
        guard ending == nil else { return [] }
        do throws(Failure) {
            return try take(frame)
        } catch {
            return [.close(error)] + closed(TramontaneError(error))
        }
    }

    private mutating func take(_ frame: Frame) throws(Failure) -> [Action] {
        let id = frame.correlation
        switch entries[id] {
        case .call(let caller, let answer)?:
            switch frame.kind {
            case answer:
                entries[id] = nil
                return [.resumeCaller(caller, .success(frame))]
            case .failed:
                entries[id] = nil
                let failure = TramontaneError(try frame.message(ProtoFailure.self))
                return [.resumeCaller(caller, .failure(failure))]
            default:
                throw Self.unexpected(frame, "as an answer to a request for \(answer.name)")
            }
        case .cancelled?:
            switch frame.kind {
            case .finished, .failed, .scored, .statusReport: entries[id] = nil
            default: break
            }
            return []
        case .stream(var stream)?:
            guard !stream.isTerminated else { throw Self.unexpected(frame, "after the stream's end") }
            return try take(frame, id, &stream)
        case .reserved?, nil:
            throw Self.unexpected(frame, "with an id that is not in use")
        }
    }

    private mutating func take(_ frame: Frame, _ id: UInt64, _ stream: inout Stream) throws(Failure) -> [Action] {
        switch frame.kind {
        case .accepted where !stream.isAccepted:
            stream.isAccepted = true
            return deliver(.accepted(Acceptance(try frame.message())), id, &stream)
        case .delta where stream.isAccepted:
            guard stream.credit > 0 else { throw Self.unexpected(frame, "without credit") }
            stream.credit -= 1
            let delta: ProtoDelta = try frame.message()
            return deliver(.token(Token(text: delta.text, ids: delta.tokens)), id, &stream)
        case .finished where stream.isAccepted:
            stream.isTerminated = true
            return deliver(.finished(Outcome(try frame.message())), id, &stream)
        case .failed:
            stream.isTerminated = true
            let failure = TramontaneError(try frame.message(ProtoFailure.self))
            if let reader = stream.reader {
                entries[id] = nil
                return [.resumeReader(reader, .failure(failure))]
            }
            stream.failure = failure
            entries[id] = .stream(stream)
            return []
        default:
            throw Self.unexpected(frame, stream.isAccepted ? "on an accepted stream" : "before accepted")
        }
    }

    private mutating func deliver(_ item: StreamItem, _ id: UInt64, _ stream: inout Stream) -> [Action] {
        guard let reader = stream.reader else {
            stream.buffer.append(item)
            entries[id] = .stream(stream)
            return []
        }
        stream.reader = nil
        return [.resumeReader(reader, .success(item))] + taken(item, of: id, &stream)
    }

    /// An item has reached the reader: forget a stream that is done, and give credit back by half windows.
    private mutating func taken(_ item: StreamItem, of id: UInt64, _ stream: inout Stream) -> [Action] {
        defer {
            if case .finished = item { entries[id] = nil } else { entries[id] = .stream(stream) }
        }
        guard case .token = item, !stream.isTerminated else { return [] }
        stream.unreturned += 1
        guard stream.unreturned >= Self.window / 2 else { return [] }
        var credit = ProtoCredit()
        credit.frames = stream.unreturned
        stream.credit += stream.unreturned
        stream.unreturned = 0
        return [.send(Frame(.credit, credit, correlation: id))]
    }

    private static var cancelled: TramontaneError {
        TramontaneError(code: "cancelled", message: "the calling task was cancelled")
    }

    private static func unexpected(_ frame: Frame, _ circumstance: String) -> Failure {
        Failure(code: "frame_unexpected", message: "frame \(frame.kind.name) came \(circumstance)")
    }
}
