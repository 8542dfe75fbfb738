import Synchronization

/// What the threads of an import share.
final class ImportWriting: Sendable {
    /// The memory of a chunk. `@unchecked Sendable`: one thread prepares it, then one appends it.
    private final class Buffer: @unchecked Sendable {
        let memory: UnsafeMutableRawBufferPointer

        init(bytes: Int) { memory = .allocate(byteCount: bytes, alignment: 64) }

        deinit { memory.deallocate() }
    }

    private struct Place: Hashable {
        var job: Int
        var chunk: Int
    }

    private struct State {
        var free: [Buffer] = []
        var prepared: [Place: Buffer] = [:]
        var writers: [Int: BlobWriter] = [:]
        var names: [String]
    }

    private let jobs: [ImportJob]
    private let store: Store
    private let journal: ImportJournal
    private let bufferBytes: Int
    private let state: Mutex<State>

    init(jobs: [ImportJob], store: Store, journal: ImportJournal) {
        self.jobs = jobs
        self.store = store
        self.journal = journal
        bufferBytes = jobs.reduce(0) { max($0, $1.chunks.reduce(0) { max($0, $1.bytes) }) }
        state = Mutex(State(names: jobs.map { _ in "" }))
    }

    /// The blobs' names, when all are written.
    var names: [String] { state.withLock { $0.names } }

    /// As many streams as threads; for each a chunk that is appended and one that is prepared meanwhile.
    var schedule: ImportSchedule {
        let threads = Crew<ImportSchedule>.defaultThreads
        return ImportSchedule(chunks: jobs.map(\.chunks.count), streams: threads, window: 2 * threads)
    }

    @Sendable func worker() -> Crew<ImportSchedule>.Worker {
        let worker = ChunkWorker()
        return { work in
            switch work.kind {
            case .prepare: try self.prepare(work, worker)
            case .append: try self.append(work)
            case .finish: try self.finish(work)
            }
        }
    }

    private func prepare(_ work: ImportSchedule.Work, _ worker: ChunkWorker) throws -> Advance {
        let job = jobs[work.blob]
        let chunk = job.chunks[work.chunk]
        let source = job.sources[chunk.tensor]
        let buffer = state.withLock { $0.free.popLast() } ?? Buffer(bytes: bufferBytes)
        try worker.prepare(
            chunk.rows, of: source, as: job.blob.tensors[chunk.tensor],
            into: UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<chunk.bytes]))
        state.withLock { $0.prepared[Place(job: work.blob, chunk: work.chunk)] = buffer }
        return Advance(item: job.part, bytes: chunk.rows.count * source.rowBytes)
    }

    private func append(_ work: ImportSchedule.Work) throws -> Advance {
        let job = jobs[work.blob]
        let (buffer, known) = state.withLock {
            ($0.prepared.removeValue(forKey: Place(job: work.blob, chunk: work.chunk)), $0.writers[work.blob])
        }
        let writer = try known ?? BlobWriter(store: store)
        if let buffer {
            try writer.append(UnsafeRawBufferPointer(rebasing: buffer.memory[..<job.chunks[work.chunk].bytes]))
        }
        state.withLock {
            $0.writers[work.blob] = writer
            if let buffer { $0.free.append(buffer) }
        }
        return Advance(item: job.part)
    }

    private func finish(_ work: ImportSchedule.Work) throws -> Advance {
        let job = jobs[work.blob]
        guard let writer = state.withLock({ $0.writers.removeValue(forKey: work.blob) }) else { return Advance() }
        let sha256 = try writer.finish()
        try journal.record(job.part, sha256: sha256, bytes: job.blob.bytes)
        state.withLock { $0.names[work.blob] = sha256 }
        return Advance(item: job.part, items: 1)
    }
}
