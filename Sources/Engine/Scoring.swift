import CKernels

/// What the logits of one position say.
package struct ScoredRow: Sendable {
    /// The best tokens and their logits, best first; of equals the lower id first.
    package var top: [(Int32, Float)]
    /// -ln of the target's probability, in nats; nil without a target.
    package var nll: Double?
}

/// Scores one row of logits: sums in double in the order of the ids, with the kernels' own functions, so that the bits are
/// the same everywhere.
///
/// - Parameters:
///   - top: how many of the best tokens are wanted; fewer come where there are fewer.
///   - target: the token that did come next; nil, or one outside the vocabulary, gives no `nll`.
/// - Returns: nil when a logit is NaN or infinitely large, or all are infinitely small: the request fails then.
package func scoreRow(logits: UnsafeBufferPointer<Float>, top: Int, target: Int32?) -> ScoredRow? {
    guard logits.allSatisfy({ $0 < .infinity }), let highest = logits.max(), highest > -.infinity else { return nil }
    var order = LogitOrder(logits)
    var row = ScoredRow(top: [], nll: nil)
    while row.top.count < top, let token = order.next() {
        row.top.append((Int32(truncatingIfNeeded: token), logits[token]))
    }
    if let target, logits.indices.contains(Int(target)) {
        let sum = logits.reduce(0.0) { $0 + tk_exp_f64(Double($1) - Double(highest)) }
        row.nll = tk_log_f64(sum) + (Double(highest) - Double(logits[Int(target)]))
    }
    return row
}
