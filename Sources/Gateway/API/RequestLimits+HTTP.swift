import Coordinator

/// What HTTP alone has: how many answers one call may ask for, and names that are only looked at.
extension RequestLimits {
    /// Answers for one prompt.
    static let choices = 1...16
    /// Answers of one call, over all its prompts.
    static let answers = 64
    static let nameBytes = 512
}
