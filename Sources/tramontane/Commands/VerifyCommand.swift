import ArgumentParser
import ModelStore

/// Rehashes a model's blobs.
struct VerifyCommand: Command {
    static let example = "tramontane verify mixtral --store /srv/tramontane"
    static let configuration = commandConfiguration(
        "verify", "Reads every blob of a model and compares it with its hash.",
        """
        Names every blob that is missing, cut or altered and what it holds, and then ends with status 1. Importing the model \
        again makes the blobs that are missing; one that is altered must be removed first.
        """)
    static let settings: [Setting] = [.option("store")]

    @Argument(help: ArgumentHelp("A manifest's path, or a name in the store.", valueName: "model"))
    var model: String

    @Option(
        help: ArgumentHelp(
            "The store of the name. Default: $TRAMONTANE_STORE, or ~/.local/share/tramontane.", valueName: "directory"))
    var store: String?

    @OptionGroup var settingsFile: SettingsFile

    func run() throws {
        let found: (manifest: Manifest, manifestPath: String, store: Store)
        if let store, Store.isValidName(model) {
            let named = Store(directory: store)
            found = try ModelResolver.resolve(named.manifestPath(name: model))
        } else {
            found = try ModelResolver.resolve(model)
        }
        let bar = ProgressBar("verifying")
        defer { bar.clear() }
        let bad = found.store.verify(found.manifest) { bar.show($0) }
        bar.clear()
        for blob in bad {
            let parts = VerifyReport.parts(of: blob.sha256, in: found.manifest)
            try StandardOutput.write("\(blob.sha256) \(parts): \(blob.error.message)\n")
        }
        guard bad.isEmpty else {
            let summary = VerifyReport.summary(
                bad: bad.count, altered: bad.count { $0.error.code == "blob_altered" }, store: found.store.directory)
            throw CommandError.failure("\(found.manifestPath): \(summary)")
        }
        let blobs = found.manifest.uniqueBlobs
        let bytes = blobs.reduce(UInt64(0)) { $0 &+ UInt64(clamping: $1.bytes) }
        try StandardOutput.write("\(found.manifest.name): \(blobs.count) blobs, \(ByteCount.text(bytes)), all good\n")
    }
}

/// What is said of bad blobs.
enum VerifyReport {
    /// The parts of the model that a blob holds, in the order of its layers: `layer 3 expert 2`. Equal parts are one blob.
    static func parts(of sha256: String, in manifest: Manifest) -> String {
        var parts: [String] = []
        func add(_ part: String, _ blob: BlobReference) {
            if blob.sha256 == sha256 { parts.append(part) }
        }
        add("tokenizer", manifest.tokenizer)
        add("embedding", manifest.embedding)
        for (index, layer) in manifest.layers.enumerated() {
            add("layer \(index) dense", layer.dense)
            for (expert, blob) in layer.experts.enumerated() { add("layer \(index) expert \(expert)", blob) }
        }
        add("head", manifest.head)
        // A model of repeated layers would fill the screen.
        let named = parts.prefix(4).joined(separator: ", ")
        return parts.count > 4 ? "\(named) and \(parts.count - 4) more" : named
    }

    /// An import makes the blobs that are missing or of another size, and believes the others.
    static func summary(bad count: Int, altered: Int, store: String) -> String {
        let remove = altered > 0 ? "remove what was altered from \(store)/blobs, then " : ""
        return "\(count) bad \(count == 1 ? "blob" : "blobs"); \(remove)import the model again"
    }
}
