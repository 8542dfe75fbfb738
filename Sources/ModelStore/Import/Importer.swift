import Foundation

/// Reads a model of somebody else's format and writes it into a store, laid out as the kernels read it.
package struct Importer {
    /// A blob to be written.
    private struct Job {
        /// Its place in the manifest: `layers.3.experts.5`.
        var part: String
        var sources: [SourceTensor]
        /// Without its name.
        var blob: BlobReference
    }

    private let model: SourceModel
    private let store: Store
    private let quantize: TensorFormat?

    /// Imports a GGUF file (any part of a split one) or a Hugging Face directory.
    ///
    /// The manifest is written last. A kill at any moment leaves a store in which everything that has a name is whole;
    /// the same call again goes on where the first was. Imports into one store wait for each other.
    ///
    /// - Parameters:
    ///   - name: the model's name; nil takes the file's or directory's.
    ///   - quantize: `q8_0`, or nil to keep the weights as they are. Quantises all matrices (embedding and head too)
    ///     that are not quantised already, except the router.
    ///   - progress: told after every few megabytes; bytes are the source's.
    /// - Returns: the manifest's path.
    /// - Throws: ``ModelError``.
    package static func run(
        source: String, store: Store, name: String? = nil, quantize: TensorFormat? = nil,
        progress: (ImportProgress) -> Void = { _ in }
    ) throws -> String {
        if let name, !Store.isValidName(name) {
            throw ModelError(
                .argumentInvalid, "not a possible name", field: "name", found: name, limit: Store.nameRule)
        }
        let files = try SourceFiles(path: source)
        return try run(files, store: store, name: name, manifest: nil, quantize: quantize, progress: progress)
    }

    /// Imports for the cache: under a name that is the source's key. Returns at once when that manifest is there with
    /// all its blobs, also when another process made it while this one waited for the lock.
    static func cached(_ files: SourceFiles, store: Store, progress: (ImportProgress) -> Void) throws -> String {
        let key = files.key(quantize: nil)
        let path = store.manifestPath(name: key)
        if isComplete(path, in: store) { return path }
        return try run(files, store: store, name: nil, manifest: key, quantize: nil, progress: progress)
    }

    private static func isComplete(_ path: String, in store: Store) -> Bool {
        guard let manifest = try? store.loadManifest(path: path) else { return false }
        return manifest.uniqueBlobs.allSatisfy { store.hasBlob($0.sha256, bytes: $0.bytes) }
    }

    private static func run(
        _ files: SourceFiles, store: Store, name: String?, manifest: String?, quantize: TensorFormat?,
        progress: (ImportProgress) -> Void
    ) throws -> String {
        guard quantize == nil || quantize == .q8_0 else {
            throw ModelError(
                .argumentInvalid, "not a format that weights are quantised to", field: "quantize",
                found: quantize?.rawValue, limit: "q8_0")
        }
        try store.prepare()
        return try store.locked {
            if let manifest, isComplete(store.manifestPath(name: manifest), in: store) {
                return store.manifestPath(name: manifest)
            }
            try store.removeRests()
            let importer = Importer(model: try SourceModel.load(files), store: store, quantize: quantize)
            let journal = try ImportJournal(store: store, key: files.key(quantize: quantize))
            let modelName = name ?? Store.name(from: importer.model.name)
            let result = try importer.writeBlobs(name: modelName, journal: journal, progress: progress)
            let path = store.manifestPath(name: manifest ?? modelName)
            // Nothing that a reader would refuse is ever written.
            try result.validate(file: path)
            try store.writeAtomically(try result.canonicalBytes, to: path, directory: "manifests")
            return path
        }
    }

    // MARK: Planning

    private func job(_ part: String, _ plans: [TensorPlan], _ sources: [SourceTensor]) throws -> Job {
        var offset = 0
        var tensors: [TensorEntry] = []
        for (plan, source) in zip(plans, sources) {
            let format = plan.format ?? (source.format.isPlain ? quantize ?? source.format : source.format)
            guard plan.columns % format.blockSize == 0 else {
                throw ModelError(
                    .shapeInvalid, "rows that are not whole blocks of \(format.rawValue)", file: source.file.path,
                    field: source.name, found: "\(plan.columns) columns", limit: "a multiple of \(format.blockSize)")
            }
            let bytes = format.matrixBytes(rows: plan.rows, columns: plan.columns, panels: plan.panels)
            tensors.append(
                TensorEntry(
                    name: plan.name, format: format, rows: plan.rows, columns: plan.columns, offset: offset,
                    bytes: bytes, panels: plan.panels))
            offset = (offset + bytes + 63) & ~63
        }
        // The end is padded too, so that a kernel may load whole vectors up to it.
        return Job(part: part, sources: sources, blob: BlobReference(sha256: "", bytes: offset, tensors: tensors))
    }

    /// All blobs but the tokenizer: embedding, then layer by layer the dense part and the experts, then the head.
    private func jobs() throws -> [Job] {
        let shape = model.shape
        var jobs = [try job("embedding", shape.embeddingPlan, [model.embedding])]
        for (index, layer) in model.layers.enumerated() {
            jobs.append(try job("layers.\(index).dense", shape.densePlan, layer.dense))
            for (expert, sources) in layer.experts.enumerated() {
                jobs.append(try job("layers.\(index).experts.\(expert)", shape.expertPlan, sources))
            }
        }
        jobs.append(try job("head", shape.headPlan, model.head))
        return jobs
    }

    // MARK: Writing

    private func writeBlobs(
        name: String, journal: ImportJournal, progress: (ImportProgress) -> Void
    ) throws -> Manifest {
        let jobs = try jobs()
        var state = ImportProgress(
            items: jobs.count + 1,
            bytes: jobs.reduce(0) { sum, job in job.sources.reduce(sum) { $0 + $1.rows * $1.rowBytes } })
        var blobs: [BlobReference] = []
        for job in jobs {
            state.item = job.part
            progress(state)
            let sourceBytes = job.sources.reduce(0) { $0 + $1.rows * $1.rowBytes }
            let begin = state.bytesDone
            blobs.append(
                try write(job, journal: journal) { read in
                    state.bytesDone += read
                    progress(state)
                })
            state.bytesDone = begin + sourceBytes
            state.itemsDone += 1
        }
        state.item = "tokenizer"
        let tokenizer = try writeTokenizer(journal: journal)
        state.itemsDone += 1
        progress(state)

        let perLayer = model.shape.experts + 1
        let layers = (0..<model.shape.layers).map { index in
            let first = 1 + index * perLayer
            return LayerBlobs(dense: blobs[first], experts: Array(blobs[first + 1..<first + perLayer]))
        }
        return Manifest(
            name: name, shape: model.shape, tokenizer: tokenizer, embedding: blobs[0], head: blobs[blobs.count - 1],
            layers: layers)
    }

    private func write(_ job: Job, journal: ImportJournal, progress: (Int) -> Void) throws -> BlobReference {
        var blob = job.blob
        if let sha256 = journal.blob(job.part, bytes: blob.bytes, in: store) {
            blob.sha256 = sha256
            return blob
        }
        var writer = try BlobWriter(store: store)
        for (source, target) in zip(job.sources, blob.tensors) {
            try TensorWriter(source: source, target: target).write(to: &writer, progress: progress)
        }
        try writer.pad(to: blob.bytes)
        blob.sha256 = try writer.finish()
        try journal.record(job.part, sha256: blob.sha256, bytes: blob.bytes)
        return blob
    }

    private func writeTokenizer(journal: ImportJournal) throws -> BlobReference {
        let bytes = model.tokenizer.count
        if let sha256 = journal.blob("tokenizer", bytes: bytes, in: store) {
            return BlobReference(sha256: sha256, bytes: bytes, tensors: [])
        }
        var writer = try BlobWriter(store: store)
        try model.tokenizer.withUnsafeBytes { try writer.append($0) }
        let sha256 = try writer.finish()
        try journal.record("tokenizer", sha256: sha256, bytes: bytes)
        return BlobReference(sha256: sha256, bytes: bytes, tensors: [])
    }
}

extension Store {
    /// Removes what imports that were killed left in `tmp`. The caller holds the lock, so none of it is in use.
    func removeRests() throws {
        let names = try? FileManager.default.contentsOfDirectory(atPath: "\(directory)/tmp")
        for name in names ?? [] where name.hasPrefix("blob-") || name.hasPrefix("file-") {
            unlink("\(directory)/tmp/\(name)")
        }
    }

    /// A possible name out of any text.
    static func name(from text: String) -> String {
        var name = ""
        for byte in text.utf8.prefix(100) {
            let character = String(Unicode.Scalar(byte))
            let candidate = name + character
            name = isValidName(candidate) ? candidate : name.isEmpty ? name : name + "-"
        }
        return name.isEmpty ? "model" : name
    }
}
