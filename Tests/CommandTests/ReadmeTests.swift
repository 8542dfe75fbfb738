import Foundation
import TestSupport
import Testing

struct ReadmeTests {
    @Test func itsProgramIsTheOneThatIsBuilt() throws {
        let readme = try String(contentsOf: Fixtures.root.appending(path: "README.md"), encoding: .utf8)
        let program = try String(
            contentsOf: Fixtures.root.appending(path: "Sources/ChatExample/ChatExample.swift"), encoding: .utf8)
        #expect(readme.contains("```swift\n\(program)```"))
    }
}
