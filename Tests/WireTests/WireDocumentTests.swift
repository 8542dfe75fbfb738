import Foundation
import NIOCore
import TestSupport
import Testing

@testable import Wire

/// docs/wire-protocol.md says what the code does.
@Suite struct WireDocumentTests {
    private let document: String

    init() throws {
        document = try String(contentsOf: Fixtures.root.appending(path: "docs/wire-protocol.md"), encoding: .utf8)
    }

    @Test func theTableOfKindsIsComplete() {
        let rows = document.split(separator: "\n").filter { $0.hasPrefix("| ") }
        for kind in FrameKind.allCases {
            let row = rows.first { $0.hasPrefix("| \(kind.rawValue) | \(kind.name) | ") }
            let fromDialler = ProtoHello.Role.allCases.contains { kind.isAllowed(role: $0, fromDialler: true) }
            let fromAcceptor = ProtoHello.Role.allCases.contains { kind.isAllowed(role: $0, fromDialler: false) }
            let direction =
                switch kind {
                case .hello: "→"
                case .welcome: "←"
                default: fromDialler && fromAcceptor ? "both" : fromDialler ? "→" : "←"
                }
            #expect(row?.contains("| \(direction) |") == true, "\(kind.name)")
        }
    }

    /// The bytes of the lines that begin with an offset, in the example under `heading`.
    private func bytes(after heading: String) throws -> [UInt8] {
        let start = try #require(document.range(of: heading))
        let lines = document[start.upperBound...].split(separator: "\n")
            .drop { !$0.hasPrefix("    0000  ") }
            .prefix { $0.hasPrefix("    00") }
        return lines.flatMap { line in
            line.dropFirst(10).prefix(48).split(separator: " ").compactMap { UInt8($0, radix: 16) }
        }
    }

    @Test func theExamplesAreReal() throws {
        var hello = ProtoHello()
        hello.role = .client
        hello.name = "example"
        var buffer = ByteBuffer()
        Frame(.hello, hello).write(into: &buffer)
        #expect(try bytes(after: "**An example**") == Array(buffer.readableBytesView))
        buffer.clear()
        Frame(.ping).write(into: &buffer)
        #expect(try bytes(after: "A ping, which has no payload") == Array(buffer.readableBytesView))
    }
}
