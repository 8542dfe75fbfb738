import Foundation
import TestSupport

@testable import Tokenizer

/// The fixtures' tokenizers.
enum Models {
    static func tokenizer(_ name: String) throws -> Tokenizer {
        try Tokenizer(model: bytes(name))
    }

    static func bytes(_ name: String) throws -> [UInt8] {
        try [UInt8](Data(contentsOf: Fixtures.url("tokenizer/\(name).model")))
    }

    static func demo() throws -> Tokenizer {
        try Tokenizer(model: [UInt8](Data(contentsOf: Fixtures.demo.appending(path: "tokenizer.model"))))
    }
}
