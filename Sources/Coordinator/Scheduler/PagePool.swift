/// The KV pages of one lane: which are free, which hold what, who shares them. Bookkeeping without bytes.
///
/// Full pages are found by content: a page's name is the page before it and its own 32 tokens, so that equal names mean
/// equal prefixes from position 0 on, without a hash that could collide. A page that nobody uses stays findable until its
/// place is needed; the least recently used goes first. Who holds a page holds all pages before it and gives them back
/// last first, so that no page ever goes before one that was named after it.
package struct PagePool: Sendable {
    /// Tokens of a page.
    package static let pageTokens = Scheduler.pageTokens

    private struct Name: Hashable {
        /// The page before; `none` for a sequence's first.
        let parent: UInt32
        let tokens: SIMD32<Int32>

        static func == (left: Name, right: Name) -> Bool {
            left.parent == right.parent && left.tokens == right.tokens
        }

        func hash(into hasher: inout Hasher) {
            hasher.combine(parent)
            withUnsafeBytes(of: tokens) { hasher.combine(bytes: $0) }
        }
    }

    private struct Page {
        var references = 0
        /// Whether all of it was computed, in every stage.
        var isComputed = false
        /// The sequence that computes it.
        var writer: UInt64?
        var name: Name?
        // Neighbours among the pages that nobody uses, from the least recently used on.
        var earlier = none
        var later = none
    }

    private static let none = UInt32.max

    /// Ids of the pages, in every home of the lane.
    package let range: Range<UInt32>
    private var pages: [Page]
    /// Pages that hold nothing; the last is taken first.
    private var free: [UInt32]
    private var found: [Name: UInt32] = [:]
    private var oldest = none
    private var newest = none
    /// Pages that nobody uses and that can be found.
    package private(set) var cachedCount = 0

    package init(_ range: Range<UInt32>) {
        self.range = range
        pages = Array(repeating: Page(), count: range.count)
        free = range.reversed()
    }

    package var count: Int { range.count }
    /// Pages that can be taken: empty ones, and those that nobody uses.
    package var availableCount: Int { free.count + cachedCount }
    package var usedCount: Int { count - availableCount }

    // MARK: Finding

    /// How many of the first `limit` pages of these tokens are here, computed or being computed.
    package func match(_ tokens: [Int32], limit: Int) -> Int {
        var parent = Self.none
        for index in 0..<limit {
            guard let page = found[Self.name(tokens, page: index, after: parent)] else { return index }
            parent = page
        }
        return limit
    }

    /// The page that holds the tokens' page `index`, after `parent`; it gets one more holder.
    package mutating func share(_ tokens: [Int32], page index: Int, after parent: UInt32?) -> UInt32? {
        guard let page = found[Self.name(tokens, page: index, after: parent ?? Self.none)] else { return nil }
        retain(page)
        return page
    }

    private static func name(_ tokens: [Int32], page index: Int, after parent: UInt32) -> Name {
        let first = index * pageTokens
        precondition(first >= 0 && first + pageTokens <= tokens.count)
        return tokens.withUnsafeBytes { bytes in
            Name(
                parent: parent,
                tokens: bytes.loadUnaligned(
                    fromByteOffset: first * MemoryLayout<Int32>.size, as: SIMD32<Int32>.self))
        }
    }

    // MARK: Holding

    /// An empty page with one holder, in place of the least recently used one where none is empty.
    package mutating func take() -> UInt32? {
        if free.isEmpty { forgetOldest() }
        guard let page = free.popLast() else { return nil }
        self[page] = Page()
        self[page].references = 1
        return page
    }

    private mutating func retain(_ page: UInt32) {
        if self[page].references == 0 { unlink(page) }
        self[page].references += 1
    }

    /// A sequence lets go of its pages, in order from position 0.
    package mutating func release(_ pages: [UInt32], holder: UInt64) {
        for page in pages.reversed() {
            if self[page].writer == holder { self[page].writer = nil }
            self[page].references -= 1
            guard self[page].references == 0 else { continue }
            if self[page].isComputed, self[page].name != nil {
                link(page)
            } else {
                // Nobody waits for it: whoever did would hold it.
                forget(page)
                free.append(page)
            }
        }
    }

    // MARK: Content

    package func isComputed(_ page: UInt32) -> Bool { self[page].isComputed }

    /// Whether the sequence may compute into the page; from then on it is the only one.
    package mutating func claim(_ page: UInt32, writer: UInt64) -> Bool {
        guard !self[page].isComputed else { return false }
        if let other = self[page].writer { return other == writer }
        self[page].writer = writer
        return true
    }

    /// The page will hold the tokens' page `index`: who needs the same can wait for it. Nothing happens where another
    /// page holds that already, or where the page before cannot be found itself.
    package mutating func name(_ page: UInt32, _ tokens: [Int32], page index: Int, after parent: UInt32?) {
        guard self[page].name == nil, parent.map({ self[$0].name != nil }) ?? true else { return }
        let name = Self.name(tokens, page: index, after: parent ?? Self.none)
        guard found[name] == nil else { return }
        found[name] = page
        self[page].name = name
    }

    /// The page was computed to its end, in every stage.
    package mutating func complete(_ page: UInt32) {
        self[page].isComputed = true
        self[page].writer = nil
    }

    private mutating func forget(_ page: UInt32) {
        guard let name = self[page].name else { return }
        found[name] = nil
        self[page].name = nil
    }

    // MARK: The least recently used

    private mutating func forgetOldest() {
        let page = oldest
        guard page != Self.none else { return }
        unlink(page)
        forget(page)
        free.append(page)
    }

    private mutating func link(_ page: UInt32) {
        self[page].earlier = newest
        self[page].later = Self.none
        if newest == Self.none { oldest = page } else { self[newest].later = page }
        newest = page
        cachedCount += 1
    }

    private mutating func unlink(_ page: UInt32) {
        let (earlier, later) = (self[page].earlier, self[page].later)
        if earlier == Self.none { oldest = later } else { self[earlier].later = later }
        if later == Self.none { newest = earlier } else { self[later].earlier = earlier }
        cachedCount -= 1
    }

    private subscript(page: UInt32) -> Page {
        get { pages[Int(page - range.lowerBound)] }
        _modify { yield &pages[Int(page - range.lowerBound)] }
    }
}
