import Wire

extension Scheduler {
    /// One sequence, from admission to its end.
    struct Sequence: Sendable {
        let id: UInt64
        let sampling: ProtoSamplingParameters
        let scoreTop: UInt32?
        /// When it was admitted or sent back.
        var waitingSince: UInt64
        /// Prompt and answer so far.
        var tokens: [Int32]
        var lane: Int?
        /// Positions whose KV is in the pages, by steps that came back.
        var computed = 0
        var pages: [UInt32] = []
        /// How many of `pages` the homes were told.
        var pagesSent = 0
        /// The homes have its sampling parameters and table.
        var introduced = false
        /// Rows in the step that is under way.
        var inFlight: Int?
        /// Number of the lane's step that it was last in.
        var lastStep: UInt64 = 0
        /// Ended for the outside; waits for its step to come back.
        var ending = false
        /// Gives its pages back as soon as its step has come back.
        var evicted = false

        init(work: Work, waitingSince: UInt64) {
            id = work.id
            sampling = work.sampling
            scoreTop = work.scoreTop
            tokens = work.prompt
            self.waitingSince = waitingSince
        }

        var remaining: Int { tokens.count - computed }

        func pagesMissing(forRows rows: Int) -> Int {
            max(0, Scheduler.pages(for: computed + rows) - pages.count)
        }

        mutating func leaveLane() {
            lane = nil
            computed = 0
            pages = []
            pagesSent = 0
            introduced = false
            inFlight = nil
            evicted = false
            lastStep = 0
        }
    }

    package static func pages(for tokens: Int) -> Int {
        (tokens + pageTokens - 1) / pageTokens
    }

    /// What a new placement says of a lane.
    package struct LaneSpecification: Sendable, Equatable {
        /// Names, first stage to last.
        package var homes: [String]
        /// Ids of the pages that are this lane's, in every home of it.
        package var pages: Range<UInt32>

        package init(homes: [String], pages: Range<UInt32>) {
            self.homes = homes
            self.pages = pages
        }
    }

    package struct Lane: Sendable {
        package let index: Int
        package let homes: [String]
        package let pageCount: Int
        package internal(set) var isOpen = true
        /// Free pages; the last is taken first.
        var free: [UInt32]
        /// In order of arrival.
        package internal(set) var running: [UInt64] = []
        package internal(set) var stepsSent: UInt64 = 0
        var inFlight: [UInt64: FlyingStep] = [:]
        /// Sequences that the homes have not yet been told to forget.
        var released: [UInt64] = []
        /// The oldest sequence that could not get a page: nobody younger takes one before it.
        var shortOf: UInt64?
        /// A home missed a change of the tables: the next step, sent when all have come back, starts them anew.
        var resynchronise = false
        /// Gaps reported since the last step that came back.
        var gaps = 0

        init(index: Int, _ specification: LaneSpecification) {
            self.index = index
            homes = specification.homes
            pageCount = specification.pages.count
            free = specification.pages.reversed()
        }

        package var pagesUsed: Int { pageCount - free.count }
    }

    struct FlyingStep: Sendable {
        var sequences: [UInt64]
        var sent: UInt64
    }
}
