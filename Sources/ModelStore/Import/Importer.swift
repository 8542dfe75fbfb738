import Foundation

/// Reads a model of somebody else's format and writes it into a store, laid out as the kernels read it.
package struct Importer {
    private let model: ImportModel
    private let store: Store
    private let quantize: TensorFormat?

    /// Imports a GGUF file (any part of a split one) or a Hugging Face directory.
    ///
    /// The manifest is written last. A kill at any moment leaves a store in which everything that has a name is whole;
    /// the same call again goes on where the first was. Imports into one store wait for each other.
    ///
    /// - Parameters:
    ///   - name: the model's name; nil takes the file's or directory's.
    ///   - quantize: one of ``quantizations``, or nil to keep the weights as they are. Quantises all matrices (embedding
    ///     and head too) that are not quantised already, except the router.
    ///   - progress: told after every megabyte or so; bytes are the source's.
    ///   - notice: told what the user should know of the result, a sentence each.
    /// - Returns: the manifest's path.
    /// - Throws: ``ModelError``.
    package static func run(
        source: String, store: Store, name: String? = nil, quantize: TensorFormat? = nil,
        progress: (ImportProgress) -> Void = { _ in }, notice: (String) -> Void = { _ in }
    ) throws -> String {
        try check(name: name)
        let files = try SourceFiles(path: source)
        return try run(
            key: files.key(quantize: quantize), store: store, name: name, manifest: nil, quantize: quantize,
            notice: notice, progress: progress
        ) {
            ImportModel(try SourceModel.load(files))
        }
    }

    /// Writes a model of random weights. The same model gives the same blobs, on any machine.
    ///
    /// - Parameters: as in ``run(source:store:name:quantize:progress:notice:)``.
    package static func run(
        synthetic model: SyntheticModel, store: Store, name: String? = nil,
        progress: (ImportProgress) -> Void = { _ in }, notice: (String) -> Void = { _ in }
    ) throws -> String {
        try check(name: name)
        return try run(
            key: model.key, store: store, name: name, manifest: nil, quantize: nil, notice: notice,
            progress: progress
        ) {
            try model.importModel()
        }
    }

    /// Imports for the cache: under a name that is the source's key. Returns at once when that manifest is there with
    /// all its blobs, also when another process made it while this one waited for the lock.
    static func cached(_ files: SourceFiles, store: Store, progress: (ImportProgress) -> Void) throws -> String {
        let key = files.key(quantize: nil)
        let path = store.manifestPath(name: key)
        if isComplete(path, in: store) { return path }
        return try run(
            key: key, store: store, name: nil, manifest: key, quantize: nil, notice: { _ in }, progress: progress
        ) {
            ImportModel(try SourceModel.load(files))
        }
    }

    private static func isComplete(_ path: String, in store: Store) -> Bool {
        guard let manifest = try? store.loadManifest(path: path) else { return false }
        return manifest.uniqueBlobs.allSatisfy { store.hasBlob($0.sha256, bytes: $0.bytes) }
    }

    private static func check(name: String?) throws {
        guard let name, !Store.isValidName(name) else { return }
        throw ModelError(.argumentInvalid, "not a possible name", field: "name", found: name, limit: Store.nameRule)
    }

    private static func run(
        key: String, store: Store, name: String?, manifest: String?, quantize: TensorFormat?,
        notice: (String) -> Void, progress: (ImportProgress) -> Void, model: () throws -> ImportModel
    ) throws -> String {
        if let quantize, !quantizations.contains(quantize) {
            throw ModelError(
                .argumentInvalid, "not a format that weights are quantised to", field: "quantize",
                found: quantize.rawValue, limit: quantizations.map(\.rawValue).joined(separator: ", "))
        }
        try store.prepare()
        return try store.locked(waiting: { notice("waits for another import into \(store.directory)") }) {
            if let manifest, isComplete(store.manifestPath(name: manifest), in: store) {
                return store.manifestPath(name: manifest)
            }
            try store.removeRests()
            let importer = Importer(model: try model(), store: store, quantize: quantize)
            let journal = try ImportJournal(store: store, key: key)
            let modelName = name ?? Store.name(from: importer.model.name)
            importer.tellFallbacks(notice)
            let result = try importer.writeBlobs(name: modelName, journal: journal, progress: progress)
            let path = store.manifestPath(name: manifest ?? modelName)
            // Nothing that a reader would refuse is ever written.
            try result.validate(file: path)
            // The blobs' names are lasting before the manifest is there.
            try Store.syncDirectory("\(store.directory)/blobs")
            let bytes = try result.canonicalBytes
            let former = try? Data(contentsOf: URL(fileURLWithPath: path))
            try store.writeAtomically(bytes, to: path, directory: "manifests")
            if let former, !former.elementsEqual(bytes) {
                notice(
                    "another model was called \(modelName) until now; a cluster that serves it takes no worker that "
                        + "starts from here on")
            }
            return path
        }
    }

    // MARK: Planning

    /// What plain weights can be quantised to.
    package static let quantizations: [TensorFormat] = [.q8_0, .q4_K]

    private func format(_ plan: TensorPlan, _ source: any RowSource) -> TensorFormat {
        if let format = plan.format { return format }
        guard let quantize, source.format.isPlain else { return source.format }
        return isFallback(plan, source) ? .q8_0 : quantize
    }

    /// Whether rows are no whole blocks of q4_K; then they become q8_0.
    private func isFallback(_ plan: TensorPlan, _ source: any RowSource) -> Bool {
        plan.format == nil && source.format.isPlain && quantize == .q4_K
            && !plan.columns.isMultiple(of: TensorFormat.q4_K.blockSize)
    }

    private func tellFallbacks(_ notice: (String) -> Void) {
        let shape = model.shape
        var pairs: [(TensorPlan, any RowSource)] = [(shape.embeddingPlan[0], model.embedding)]
        if let layer = model.layers.first {
            pairs += zip(shape.densePlan, layer.dense)
            if let expert = layer.experts.first { pairs += zip(shape.expertPlan, expert) }
        }
        pairs += zip(shape.headPlan, model.head)
        let names = pairs.filter { isFallback($0, $1) }.map(\.0.name)
        guard !names.isEmpty else { return }
        notice(
            "quantised to q8_0 instead of q4_K, since their rows are not whole blocks of 256: "
                + names.joined(separator: ", "))
    }

    private func job(_ part: String, _ plans: [TensorPlan], _ sources: [any RowSource]) throws -> ImportJob {
        var offset = 0
        var tensors: [TensorEntry] = []
        for (plan, source) in zip(plans, sources) {
            let format = format(plan, source)
            guard plan.columns % format.blockSize == 0 else {
                throw ModelError(
                    .shapeInvalid, "rows that are not whole blocks of \(format.rawValue)", file: source.path,
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
        return ImportJob(
            part: part, sources: sources, blob: BlobReference(sha256: "", bytes: offset, tensors: tensors))
    }

    /// All blobs but the tokenizer: embedding, then layer by layer the dense part and the experts, then the head.
    private func jobs() throws -> [ImportJob] {
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
        let tokenizer = try writeTokenizer(journal: journal)
        var blobs = jobs.map(\.blob)
        var state = ImportProgress(
            items: jobs.count + 1, bytes: jobs.reduce(0) { $0 + $1.sourceBytes })
        state.itemsDone = 1
        var missing: [Int] = []
        for (index, job) in jobs.enumerated() {
            if let sha256 = journal.blob(job.part, bytes: job.blob.bytes, in: store) {
                blobs[index].sha256 = sha256
                state.itemsDone += 1
                state.bytesDone += job.sourceBytes
            } else {
                missing.append(index)
            }
        }
        let writing = ImportWriting(jobs: missing.map { jobs[$0] }, store: store, journal: journal)
        if let error = Crew.run(writing.schedule, progress: state, worker: writing.worker, report: progress) {
            throw error
        }
        for (index, sha256) in zip(missing, writing.names) { blobs[index].sha256 = sha256 }

        let perLayer = model.shape.experts + 1
        let layers = (0..<model.shape.layers).map { index in
            let first = 1 + index % model.layers.count * perLayer
            return LayerBlobs(dense: blobs[first], experts: Array(blobs[first + 1..<first + perLayer]))
        }
        return Manifest(
            name: name, shape: model.shape, tokenizer: tokenizer, embedding: blobs[0], head: blobs[blobs.count - 1],
            layers: layers)
    }

    private func writeTokenizer(journal: ImportJournal) throws -> BlobReference {
        let bytes = model.tokenizer.count
        if let sha256 = journal.blob("tokenizer", bytes: bytes, in: store) {
            return BlobReference(sha256: sha256, bytes: bytes, tensors: [])
        }
        let writer = try BlobWriter(store: store)
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
