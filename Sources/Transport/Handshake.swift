import NIOCore
import Wire

/// Hello and welcome, as pure functions of both sides' words.
enum Handshake {
    /// Names are for logs and tables; longer ones are a mistake or an attack.
    static let maximumNameBytes = 256

    static func hello(_ local: LocalIdentity) -> Frame {
        var hello = ProtoHello()
        hello.role = local.role
        hello.minorVersion = UInt32(FrameHeader.minorVersion)
        hello.features = local.features
        hello.name = local.name
        hello.incarnation = local.incarnation
        hello.numericsVersion = local.numericsVersion
        hello.manifestDigestBytes = local.manifestDigest
        return Frame(.hello, hello)
    }

    /// Checks a hello on the accepting side.
    ///
    /// - Throws: `message_malformed`, `role_refused`, `name_invalid`, `numerics_mismatch` or `manifest_mismatch`.
    static func peer(
        hello: ProtoHello, local: LocalIdentity, roles: Set<ProtoHello.Role>
    ) throws(Failure) -> PeerIdentity {
        let role = hello.role
        guard roles.contains(role) else {
            let allowed = roles.map { "\($0)" }.sorted().joined(separator: ", ")
            throw Failure(
                code: "role_refused",
                message: "role \(role.rawValue) is not served on this port, which serves: \(allowed)"
            )
        }
        guard hello.name.utf8.count <= maximumNameBytes, role == .client || !hello.name.isEmpty else {
            throw Failure(
                code: "name_invalid",
                message: "name has \(hello.name.utf8.count) bytes, expected "
                    + "\(role == .client ? 0 : 1) to \(maximumNameBytes)"
            )
        }
        if role.carriesData {
            try checkNumerics(hello.numericsVersion, local)
            guard hello.manifestDigestBytes == local.manifestDigest else {
                throw Failure(
                    code: "manifest_mismatch",
                    message: "peer \(hello.name) serves manifest \(prefix(hello.manifestDigestBytes)), this side "
                        + prefix(local.manifestDigest)
                )
            }
        }
        return PeerIdentity(
            role: role,
            name: hello.name,
            incarnation: hello.incarnation,
            numericsVersion: hello.numericsVersion,
            manifestDigest: hello.manifestDigestBytes,
            minorVersion: min(hello.minorVersion, UInt32(FrameHeader.minorVersion)),
            features: local.features.filter(hello.features.contains),
            rowCredits: 0,
            // A dialling side accepts the largest frames that exist.
            maximumPayloadBytes: Frame.maximumPayloadBytes
        )
    }

    static func welcome(_ local: LocalIdentity, to peer: PeerIdentity) -> Frame {
        var welcome = ProtoWelcome()
        welcome.minorVersion = UInt32(FrameHeader.minorVersion)
        welcome.features = peer.features
        welcome.name = local.name
        welcome.incarnation = local.incarnation
        welcome.numericsVersion = local.numericsVersion
        welcome.rowCredits = peer.role == .workerData ? local.rowCredits : 0
        welcome.maximumPayloadBytes = UInt32(clamping: local.limits.acceptedPayloadBytes(from: peer.role))
        welcome.keepaliveMilliseconds = UInt32(clamping: local.limits.keepaliveInterval.nanoseconds / 1_000_000)
        return Frame(.welcome, welcome)
    }

    /// Checks a welcome on the dialling side.
    ///
    /// - Throws: `welcome_malformed` or `numerics_mismatch`.
    static func peer(welcome: ProtoWelcome, local: LocalIdentity) throws(Failure) -> PeerIdentity {
        guard welcome.maximumPayloadBytes > 0, welcome.name.utf8.count <= maximumNameBytes else {
            throw Failure(
                code: "welcome_malformed",
                message: "welcome has maximum_payload_bytes \(welcome.maximumPayloadBytes) and a name of "
                    + "\(welcome.name.utf8.count) bytes, expected more than 0 and at most \(maximumNameBytes)"
            )
        }
        if local.role.carriesData {
            try checkNumerics(welcome.numericsVersion, local)
        }
        return PeerIdentity(
            role: local.role,
            name: welcome.name,
            incarnation: welcome.incarnation,
            numericsVersion: welcome.numericsVersion,
            manifestDigest: [],
            minorVersion: min(welcome.minorVersion, UInt32(FrameHeader.minorVersion)),
            features: local.features.filter(welcome.features.contains),
            rowCredits: welcome.rowCredits,
            maximumPayloadBytes: min(Int(welcome.maximumPayloadBytes), Frame.maximumPayloadBytes)
        )
    }

    private static func checkNumerics(_ found: UInt32, _ local: LocalIdentity) throws(Failure) {
        guard found == local.numericsVersion else {
            throw Failure(
                code: "numerics_mismatch",
                message: "peer has numerics version \(NumericsVersion.text(found)), this side "
                    + NumericsVersion.text(local.numericsVersion)
            )
        }
    }

    private static func prefix(_ digest: [UInt8]) -> String {
        let text = digest.prefix(6).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        return text.isEmpty ? "none" : text
    }
}

extension ProtoHello.Role {
    /// Whether tensors or steps cross connections of this role, so that both sides must compute alike.
    var carriesData: Bool { self == .coordinatorData || self == .workerData }
}

extension ConnectionLimits {
    func acceptedPayloadBytes(from role: ProtoHello.Role) -> Int {
        role == .client ? maximumClientPayloadBytes : maximumPayloadBytes
    }
}
