import Coordinator
import Foundation
import Gateway
import Logging
import ModelStore
import TestSupport
import Testing
import Tokenizer

@Suite struct FingerprintTests {
    @Test func itNamesOpenBLAS() throws {
        let native = try fingerprint(usesOpenBLAS: false)
        #expect(native.hasPrefix("tramontane-n1-"))
        #expect(try fingerprint(usesOpenBLAS: true) == native + "-openblas")
    }

    private func fingerprint(usesOpenBLAS: Bool) throws -> String {
        let blob = #"{"sha256": "00", "bytes": 1, "tensors": []}"#
        let manifest = try JSONDecoder().decode(
            Manifest.self,
            from: Data(
                #"""
                {"formatVersion": 1, "numericsVersion": 1, "name": "m", "tokenizer": \#(blob), "embedding": \#(blob),
                "head": \#(blob), "layers": [{"dense": \#(blob), "experts": [\#(blob)]}], "shape": {"layers": 1,
                "hidden": 64, "heads": 4, "keyValueHeads": 2, "headDimension": 16, "feedForward": 64, "experts": 1,
                "expertsUsed": 1, "vocabulary": 32768, "contextLength": 64, "ropeTheta": 1000000, "normEpsilon": 1e-5,
                "beginToken": 1, "endToken": 2}}
                """#.utf8))
        var configuration = CoordinatorConfiguration(
            manifest: manifest, store: Store(directory: "/nowhere"), layout: .even(workers: 1, stages: 1))
        configuration.usesOpenBLAS = usesOpenBLAS
        let tokenizer = try Tokenizer(
            model: [UInt8](Data(contentsOf: Fixtures.url("tokenizer/mistral-v3.model"))))
        let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        let coordinator = try Coordinator(configuration: configuration, tokenizer: tokenizer, logger: logger)
        return coordinator.servedModel.fingerprint
    }
}
