/// Two neighbouring symbols that together are a piece.
struct Merge {
    let score: Float
    /// Indices of the symbols.
    let left: Int
    let right: Int
    /// Bytes of both together when the merge was found.
    let length: Int

    func comesBefore(_ other: Merge) -> Bool {
        score > other.score || (score == other.score && left < other.left)
    }
}

/// A binary heap of merges, the best first.
struct MergeQueue {
    private var heap: [Merge] = []

    mutating func insert(_ merge: Merge) {
        heap.append(merge)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard merge.comesBefore(heap[parent]) else { break }
            heap[child] = heap[parent]
            child = parent
        }
        heap[child] = merge
    }

    mutating func popFirst() -> Merge? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return first }
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1].comesBefore(heap[child]) { child += 1 }
            guard heap[child].comesBefore(last) else { break }
            heap[parent] = heap[child]
            parent = child
        }
        heap[parent] = last
        return first
    }
}
