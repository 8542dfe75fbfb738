import ArgumentParser
import ModelStore

/// Rehashes a model's blobs.
struct VerifyCommand: Command {
    static let example = "tramontane verify mixtral --store /srv/tramontane"
    static let configuration = commandConfiguration(
        "verify", "Reads every blob of a model and compares it with its hash.",
        "Names every blob that is missing, cut or altered, and then ends with status 1.")
    static let settings: [Setting] = [.option("store")]

    @Argument(help: ArgumentHelp("A manifest's path, or a name in the store.", valueName: "model"))
    var model: String

    @Option(
        help: ArgumentHelp(
            "The store of the name. Default: $TRAMONTANE_STORE, or ~/.local/share/tramontane.", valueName: "directory"))
    var store: String?

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
        for blob in bad { try StandardOutput.write("\(blob.sha256) \(blob.error.message)\n") }
        guard bad.isEmpty else {
            throw CommandError.failure("\(found.manifestPath): \(bad.count) bad blobs; import the model again")
        }
        let blobs = found.manifest.uniqueBlobs
        let bytes = blobs.reduce(UInt64(0)) { $0 &+ UInt64(clamping: $1.bytes) }
        try StandardOutput.write("\(found.manifest.name): \(blobs.count) blobs, \(ByteCount.text(bytes)), all good\n")
    }
}
