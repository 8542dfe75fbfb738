import Wire

extension Scheduler {
    /// One sequence, from admission to its end.
    struct Sequence: Sendable {
        let id: UInt64
        let tenant: Int
        let priority: Int
        let sampling: ProtoSamplingParameters
        let scoreTop: UInt32?
        /// Tokens of the prompt and of the longest answer.
        let mostTokens: Int
        let admitted: UInt64
        let deadline: UInt64?
        /// When it was admitted or sent back.
        var waitingSince: UInt64
        /// Prompt and answer so far.
        var tokens: [Int32]
        /// When it first got a lane, from its admission.
        var waited: UInt64?
        /// Positions of the prompt that others had computed, before it was first sent back.
        var cachedTokens = 0
        var isReplay = false
        var lane: Int?
        /// Positions whose KV is in the pages, by steps that came back.
        var computed = 0
        /// Positions that were sent.
        var scheduled = 0
        /// Positions that came back before those ahead of them.
        var early: [Range<Int>] = []
        var pages: [UInt32] = []
        /// How many of `pages` the homes were told.
        var pagesSent = 0
        /// The homes have its sampling parameters and table.
        var introduced = false
        /// Steps under way with rows of it.
        var flights = 0
        /// Number of the lane's step that it was last in.
        var lastStep: UInt64 = 0
        /// Ended for the outside; waits for its steps to come back.
        var ending = false
        /// Gives its pages back as soon as its steps have come back.
        var evicted = false
        /// A step of it is to be repeated, as soon as the others have come back.
        var repeating = false

        static let vacant = Sequence(
            work: Work(id: 0, prompt: [], sampling: ProtoSamplingParameters()), tenant: 0, admitted: 0)

        init(work: Work, tenant: Int, admitted: UInt64) {
            id = work.id
            self.tenant = tenant
            priority = work.priority
            sampling = work.sampling
            scoreTop = work.scoreTop
            let (most, isOver) = work.prompt.count.addingReportingOverflow(work.maximumTokens)
            mostTokens = isOver ? .max : most
            self.admitted = admitted
            deadline = work.deadline
            waitingSince = admitted
            tokens = work.prompt
        }

        /// Known rows that were not sent yet; -1 where a row was sent before its token is known.
        var remaining: Int { tokens.count - scheduled }

        /// Whether the row after the known ones can be sent: the worker samples its token, and one more is wanted after it.
        var canGoAhead: Bool { flights > 0 && remaining == 0 && scoreTop == nil && tokens.count + 2 <= mostTokens }

        /// Pages whose content another sequence may have computed: all tokens are known, and the last one's row is
        /// computed in any case, because its logits are wanted. A score wants those of every row.
        var sharablePages: Int { scoreTop == nil ? (tokens.count - 1) / Scheduler.pageTokens : 0 }

        func pagesMissing(forRows rows: Int) -> Int {
            max(0, Scheduler.pages(for: scheduled + rows) - pages.count)
        }

        mutating func leaveLane() {
            isReplay = true
            lane = nil
            computed = 0
            scheduled = 0
            early = []
            pages = []
            pagesSent = 0
            introduced = false
            flights = 0
            evicted = false
            repeating = false
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
        package internal(set) var isOpen = true
        package internal(set) var pool: PagePool
        /// Slots, in order of the sequences' arrival.
        var running: [Int] = []
        package internal(set) var stepsSent: UInt64 = 0
        /// When the last step came back, and how long it took.
        var lastResult: UInt64 = 0
        var stepTime: UInt64?
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
            pool = PagePool(specification.pages)
        }

        package var runningCount: Int { running.count }

        /// Where the sequence stands in `running`, or would stand.
        func place(of id: UInt64, _ sequences: [Sequence]) -> Int? {
            var range = 0..<running.count
            while !range.isEmpty {
                let middle = (range.lowerBound + range.upperBound) / 2
                if sequences[running[middle]].id < id {
                    range = (middle + 1)..<range.upperBound
                } else {
                    range = range.lowerBound..<middle
                }
            }
            return range.lowerBound < running.count ? range.lowerBound : nil
        }
    }

    struct FlyingStep: Sendable {
        struct Rows: Sendable {
            let slot: Int
            let id: UInt64
            let positions: Range<Int>
        }

        var rows: [Rows]
        var sent: UInt64
    }
}
