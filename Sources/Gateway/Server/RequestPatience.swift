import NIOCore

/// How long a connection waits for its client: between requests, in the middle of a request's head, in the middle of its
/// body. A value without I/O; time is a parameter.
///
/// Nobody waits for a client while it waits for an answer itself: the next request may lie half read behind the one that
/// is being answered.
struct RequestPatience {
    struct Limits: Sendable {
        /// Between two requests.
        var idle: TimeAmount
        /// Longest silence before the first request, and in the middle of a head. However steadily it drips, a whole head has
        /// six times as long.
        var head: TimeAmount
        /// Longest silence in the middle of a body.
        var body: TimeAmount
    }

    /// Where in a request the next byte belongs.
    enum Place {
        case between
        case head
        case body
    }

    private enum Reading {
        case nothing
        case head(since: NIODeadline)
        case body
    }

    let limits: Limits
    private var reading = Reading.nothing
    private var isUnused = true
    /// Heads read, less answers given. HTTP/1 answers in order.
    private var unanswered = 0
    private var lastProgress: NIODeadline

    init(limits: Limits, now: NIODeadline) {
        self.limits = limits
        lastProgress = now
    }

    var place: Place {
        switch reading {
        case .nothing: .between
        case .head: .head
        case .body: .body
        }
    }

    /// When the client has been waited for long enough; nil while nothing is due from it.
    var deadline: NIODeadline? {
        switch reading {
        case .nothing: unanswered == 0 ? lastProgress + (isUnused ? limits.head : limits.idle) : nil
        case .head(let since): unanswered == 0 ? min(lastProgress + limits.head, since + limits.head * 6) : nil
        case .body: unanswered <= 1 ? lastProgress + limits.body : nil
        }
    }

    /// Whether an answer given now would be taken for that of the request being read.
    var mayAnswer: Bool {
        switch reading {
        case .nothing: false
        case .head: unanswered == 0
        case .body: unanswered == 1
        }
    }

    /// Bytes arrived. Where no request is being read, they are the beginning of one.
    mutating func arrived(now: NIODeadline) {
        isUnused = false
        lastProgress = now
        if case .nothing = reading { reading = .head(since: now) }
    }

    mutating func headRead() {
        unanswered += 1
        reading = .body
    }

    mutating func requestRead() {
        reading = .nothing
    }

    /// An answer has been given in full.
    mutating func answered(now: NIODeadline) {
        unanswered -= 1
        lastProgress = now
        if case .head = reading { reading = .head(since: now) }
    }
}
