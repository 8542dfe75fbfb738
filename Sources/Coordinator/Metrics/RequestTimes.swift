package import NIOCore

/// When the parts of one request's life began.
package struct RequestTimes: Sendable {
    /// It was read.
    package let arrived: NIODeadline
    /// Its first rows went into a step.
    package internal(set) var started: NIODeadline?
    package internal(set) var firstToken: NIODeadline?
    package internal(set) var lastToken: NIODeadline?

    package init(arrived: NIODeadline = .now()) {
        self.arrived = arrived
    }
}
