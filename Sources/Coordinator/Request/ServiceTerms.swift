import NIOCore

/// How a request is served among others.
package struct ServiceTerms: Sendable, Equatable {
    package var tenant: String
    /// Lower is served earlier, among the requests of the same tenant.
    package var priority: Int
    /// When the request has failed if it has not finished, in milliseconds of the coordinator's clock.
    package var deadline: UInt64?

    package init(tenant: String = Tenants.anonymous, priority: Int = 0, deadline: UInt64? = nil) {
        self.tenant = tenant
        self.priority = priority
        self.deadline = deadline
    }
}

extension ServiceTerms {
    init(_ request: GenerationRequest, _ times: RequestTimes) {
        self.init(
            tenant: request.tenant, priority: request.priority,
            deadline: Self.deadline(request.deadlineMilliseconds, times))
    }

    init(_ request: ScoringRequest, _ times: RequestTimes) {
        self.init(
            tenant: request.tenant, priority: request.priority,
            deadline: Self.deadline(request.deadlineMilliseconds, times))
    }

    private static func deadline(_ milliseconds: Int?, _ times: RequestTimes) -> UInt64? {
        milliseconds.map { times.arrived.uptimeNanoseconds / 1_000_000 + UInt64(clamping: $0) }
    }
}
