extension Core {
    /// What is now, for whoever asks next.
    func observe() {
        let lanes = scheduler.lanes.filter(\.isOpen)
        metrics.observe(
            running: scheduler.runningCount, waiting: scheduler.waitingCount,
            usedPages: lanes.reduce(0) { $0 + $1.pool.usedCount },
            cachedPages: lanes.reduce(0) { $0 + $1.pool.cachedCount },
            totalPages: lanes.reduce(0) { $0 + $1.pool.count })
        metrics.preempted(Int(clamping: scheduler.preemptions - reportedPreemptions))
        reportedPreemptions = scheduler.preemptions
        metrics.observe(membership.members.values, ready: scheduler.hasOpenLane && !isStopped)
    }
}
