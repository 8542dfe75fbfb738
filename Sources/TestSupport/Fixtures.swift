package import Foundation

/// Files that tests read, found from this source file's own place in the checkout.
package enum Fixtures {
    /// The root of the checkout.
    package static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// The demo model: a Hugging Face directory.
    package static let demo = root.appending(path: "cluster/demo")

    /// `Tests/Fixtures/PATH`.
    package static func url(_ path: String) -> URL {
        root.appending(path: "Tests/Fixtures").appending(path: path)
    }
}
