#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

// Digests as plain bytes, so that users of the messages need no Foundation.

extension ProtoHello {
    /// `manifest_digest` as bytes.
    package var manifestDigestBytes: [UInt8] {
        get { Array(manifestDigest) }
        set { manifestDigest = Data(newValue) }
    }
}

extension ProtoRegister {
    /// `manifest_digest` as bytes.
    package var manifestDigestBytes: [UInt8] {
        get { Array(manifestDigest) }
        set { manifestDigest = Data(newValue) }
    }
}
