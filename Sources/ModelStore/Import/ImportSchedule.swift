/// Which chunk of which blob is worked on next, so that all threads are busy, reading, packing and hashing at the same
/// time, with few chunks in memory.
///
/// A blob's chunks are prepared (read, checked, converted, packed) in any order, by any threads, but appended (hashed
/// and written) one after the other. So several blobs are open at once: each is a stream that one thread can hash, and
/// the others prepare for it.
struct ImportSchedule: Schedule {
    struct Work: Comparable, Sendable {
        enum Kind: Sendable {
            case prepare
            case append
            /// Syncs the blob and gives it its name.
            case finish
        }

        var kind: Kind
        var blob: Int
        var chunk: Int

        static func < (left: Work, right: Work) -> Bool {
            (left.blob, left.chunk) < (right.blob, right.chunk)
        }
    }

    /// A blob that is open.
    private struct Stream {
        let blob: Int
        let chunks: Int
        /// Chunks whose preparation was begun: the first ones.
        var taken = 0
        /// Chunks in memory, ready to be appended.
        var prepared: Set<Int> = []
        /// Chunks that were appended: the first ones.
        var appended = 0
        /// Whether a thread appends to it or finishes it.
        var isBusy = false
    }

    /// The number of chunks of each blob.
    private let chunks: [Int]
    private let maximumStreams: Int
    /// Chunks that may be in memory, those in preparation included.
    private let maximumChunks: Int
    private var nextBlob = 0
    private var streams: [Stream] = []
    private var held = 0
    /// Blobs from here on are given up, since this one failed.
    private var end: Int

    /// - Parameter chunks: of each blob, at least 1.
    init(chunks: [Int], streams: Int, window: Int) {
        self.chunks = chunks
        maximumStreams = max(1, streams)
        maximumChunks = max(1, window)
        end = chunks.count
    }

    mutating func next() -> Work? {
        if let work = nextAppending() { return work }
        guard held < maximumChunks else { return nil }
        // The stream with the fewest chunks on the way, the oldest of equals; a new one where all have some.
        let open = streams.indices.filter { streams[$0].taken < streams[$0].chunks }
        var best = open.min { waiting($0) < waiting($1) }
        if best.map({ waiting($0) > 0 }) ?? true, nextBlob < end, streams.count < maximumStreams {
            streams.append(Stream(blob: nextBlob, chunks: chunks[nextBlob]))
            nextBlob += 1
            best = streams.count - 1
        }
        guard let best else { return nil }
        let chunk = streams[best].taken
        streams[best].taken += 1
        held += 1
        return Work(kind: .prepare, blob: streams[best].blob, chunk: chunk)
    }

    /// First what frees memory.
    private mutating func nextAppending() -> Work? {
        for index in streams.indices where !streams[index].isBusy {
            let stream = streams[index]
            let isWhole = stream.appended == stream.chunks
            guard isWhole || stream.prepared.contains(stream.appended) else { continue }
            streams[index].isBusy = true
            return Work(kind: isWhole ? .finish : .append, blob: stream.blob, chunk: stream.appended)
        }
        return nil
    }

    private func waiting(_ index: Int) -> Int {
        streams[index].taken - streams[index].appended
    }

    mutating func succeeded(_ work: Work) {
        if work.kind == .append { held -= 1 }
        guard let index = streams.firstIndex(where: { $0.blob == work.blob }) else {
            // Its blob was given up meanwhile.
            if work.kind == .prepare { held -= 1 }
            return
        }
        switch work.kind {
        case .prepare:
            streams[index].prepared.insert(work.chunk)
        case .append:
            streams[index].prepared.remove(work.chunk)
            streams[index].appended += 1
            streams[index].isBusy = false
        case .finish:
            streams.remove(at: index)
        }
    }

    /// Gives up this blob and all later ones; those before it are finished, so that the first error is found whatever
    /// the threads' luck.
    mutating func failed(_ work: Work) {
        if work.kind != .finish { held -= 1 }
        end = min(end, work.blob)
        for stream in streams where stream.blob >= end {
            // One that is being appended ends as such and is counted then.
            held -= stream.prepared.count - (stream.isBusy && stream.appended < stream.chunks ? 1 : 0)
        }
        streams.removeAll { $0.blob >= end }
    }
}
