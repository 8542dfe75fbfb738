package import Wire

/// Puts the scores of a sequence's rows together, in order of position.
package struct ScoreMachine: Sendable {
    private let ids: [Int32]
    private var response = ProtoScoreResponse()
    private var nlls: [Double] = []

    package init(ids: [Int32]) {
        self.ids = ids
        response.ids = ids
    }

    /// Takes the scores of the rows from `position`. Rows that are known already, from before a replay, are skipped.
    /// - Returns: the whole, when the last row is there.
    /// - Throws: `worker_protocol` when the rows are not those that are due.
    package mutating func append(_ rows: ProtoScoredRows) throws(RequestError) -> ProtoScoreResponse? {
        let known = response.top.count
        let start = Int(clamping: rows.position)
        guard start <= known, start + rows.top.count <= ids.count else {
            throw Self.wrong("rows \(start)+\(rows.top.count) are scored, \(known)..<\(ids.count) are due")
        }
        let end = start + rows.top.count
        // The last row of the sequence has no token after it.
        guard rows.nll.count == min(end, ids.count - 1) - min(start, ids.count - 1) else {
            throw Self.wrong("\(rows.nll.count) likelihoods for rows \(start)..<\(end) of \(ids.count)")
        }
        guard end > known else { return nil }
        response.top += rows.top[(known - start)...]
        nlls += rows.nll.dropFirst(known - start)
        guard end == ids.count else { return nil }
        response.lastLogits = rows.lastLogits
        response.routesLast = rows.routesLast
        var sum = 0.0
        for nll in nlls { sum += nll }
        response.meanNll = nlls.isEmpty ? 0 : sum / Double(nlls.count)
        return response
    }

    private static func wrong(_ message: String) -> RequestError {
        RequestError(.failed, code: "worker_protocol", message: message)
    }
}
