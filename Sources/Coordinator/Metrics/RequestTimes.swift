package import NIOCore

/// When the parts of one request's life began.
package struct RequestTimes: Sendable {
    /// It was read.
    package let arrived: NIODeadline
    /// It got a lane.
    package internal(set) var started: NIODeadline?
    package internal(set) var firstToken: NIODeadline?
    package internal(set) var lastToken: NIODeadline?

    package init(arrived: NIODeadline = .now()) {
        self.arrived = arrived
    }
}
