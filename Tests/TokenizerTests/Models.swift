import Foundation
import TestSupport

@testable import Tokenizer

/// The fixtures' tokenizers, each read once.
enum Models {
    private static let v1 = Result { try Tokenizer(model: bytes("mistral-v1")) }
    private static let v3 = Result { try Tokenizer(model: bytes("mistral-v3")) }
    private static let demoModel = Result {
        try Tokenizer(
            model: [UInt8](Data(contentsOf: Fixtures.demo.appending(path: "tokenizer.model"))))
    }

    static func tokenizer(_ format: ChatFormat) throws -> Tokenizer {
        switch format {
        case .v1: try v1.get()
        case .v3: try v3.get()
        }
    }

    static func demo() throws -> Tokenizer {
        try demoModel.get()
    }

    static func bytes(_ name: String) throws -> [UInt8] {
        try [UInt8](Data(contentsOf: Fixtures.url("tokenizer/\(name).model")))
    }
}
