import Foundation

/// Finds the model that a user means: a manifest, files of other formats, or a name.
package enum ModelResolver {
    /// `$TRAMONTANE_CACHE`, or `~/.cache/tramontane`: the store that files given directly are imported into.
    package static var defaultCache: String {
        let environment = ProcessInfo.processInfo.environment
        if let directory = environment["TRAMONTANE_CACHE"], !directory.isEmpty { return directory }
        return NSHomeDirectory() + "/.cache/tramontane"
    }

    /// - Parameters:
    ///   - pathOrName: a store's manifest (`…/manifests/NAME.json`), a GGUF file, a safetensors directory, or the name
    ///     of a model in the default store.
    ///   - cache: the store for imports; nil takes ``defaultCache``. An import there is found again as long as device,
    ///     inode, size and time of every source file stay the same.
    ///   - progress: of an import, where one is necessary.
    /// - Throws: ``ModelError``.
    package static func resolve(
        _ pathOrName: String, cache: String? = nil, progress: (ImportProgress) -> Void = { _ in }
    ) throws -> (manifest: Manifest, manifestPath: String, store: Store) {
        guard SourceFiles.exists(pathOrName) else { return try named(pathOrName) }
        if pathOrName.hasSuffix(".json"), !pathOrName.hasSuffix(".safetensors.index.json"),
            !SourceFiles.isDirectory(pathOrName)
        {
            return try load(pathOrName, Store(directory: storeDirectory(ofManifest: pathOrName)))
        }
        let store = Store(directory: cache ?? defaultCache)
        let path = try Importer.cached(SourceFiles(path: pathOrName), store: store, progress: progress)
        return try load(path, store)
    }

    private static func load(
        _ path: String, _ store: Store
    ) throws -> (manifest: Manifest, manifestPath: String, store: Store) {
        (try store.loadManifest(path: path), path, store)
    }

    /// A manifest lies in `STORE/manifests`.
    private static func storeDirectory(ofManifest path: String) -> String {
        URL(filePath: path).standardizedFileURL.deletingLastPathComponent().deletingLastPathComponent().path
    }

    private static func named(_ name: String) throws -> (manifest: Manifest, manifestPath: String, store: Store) {
        let store = Store(directory: Store.defaultDirectory)
        guard Store.isValidName(name) else {
            throw ModelError(.fileMissing, "no such file, directory or model", file: name)
        }
        let path = store.manifestPath(name: name)
        guard SourceFiles.exists(path) else {
            let files = (try? FileManager.default.contentsOfDirectory(atPath: "\(store.directory)/manifests")) ?? []
            let known = files.filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }.sorted()
            throw ModelError(
                .modelUnknown, "no such file, directory or model", field: name,
                limit: known.isEmpty
                    ? "a path; the store \(store.directory) has no models"
                    : "a path or one of \(listed(known))")
        }
        return try load(path, store)
    }

    /// The first few, and how many there are beside them.
    private static func listed(_ names: [String]) -> String {
        let (shown, more) = (names.prefix(8).joined(separator: ", "), names.count - 8)
        return more > 0 ? "\(shown) and \(more) more" : shown
    }
}
