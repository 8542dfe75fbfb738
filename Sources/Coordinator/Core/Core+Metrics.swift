import NIOCore
import Wire

extension Core {
    /// What is now, for whoever asks next.
    func observe() {
        let lanes = scheduler.lanes.filter(\.isOpen)
        metrics.observe(
            running: scheduler.runningCount, waiting: scheduler.waitingCount,
            usedPages: lanes.reduce(0) { $0 + $1.pagesUsed }, cachedPages: 0,
            totalPages: lanes.reduce(0) { $0 + $1.pageCount })
        metrics.observe(membership.members.values, ready: scheduler.hasOpenLane && !isStopped)
    }

    /// Counts the rows of a step that is about to be sent, and notes which requests begin in it.
    func measure(_ step: ProtoStep) {
        let now = NIODeadline.now()
        var decodeRows = 0
        var prefillRows = 0
        for rows in step.rows {
            if rows.position > 0, rows.tokens.count == 1, rows.sample {
                decodeRows += 1
            } else {
                prefillRows += rows.tokens.count
            }
            if rows.position == 0, var times = requests[rows.sequence]?.times {
                metrics.started(&times, at: now)
                requests[rows.sequence]?.times = times
            }
        }
        metrics.stepPlanned(decodeRows: decodeRows, prefillRows: prefillRows)
    }
}
