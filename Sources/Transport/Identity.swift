package import NIOCore
package import Wire

/// Who this process is on a connection, and what it accepts there.
package struct LocalIdentity: Sendable {
    /// What the dialling side asks to be. A listener ignores it.
    package var role: ProtoHello.Role
    /// For logs and routing: a worker's name, "coordinator", or an application's free text. At most 256 bytes.
    package var name: String
    /// Drawn at random when the process started.
    package var incarnation: UInt64
    package var numericsVersion: UInt32
    /// SHA-256 of the model's manifest on data connections; empty elsewhere.
    package var manifestDigest: [UInt8]
    /// Optional features that this side understands.
    package var features: [String]
    /// Rows of expert work that a dialling home may have under way here.
    package var rowCredits: UInt32
    package var limits: ConnectionLimits

    package init(
        role: ProtoHello.Role,
        name: String,
        incarnation: UInt64,
        numericsVersion: UInt32 = 0,
        manifestDigest: [UInt8] = [],
        features: [String] = [],
        rowCredits: UInt32 = 0,
        limits: ConnectionLimits = ConnectionLimits()
    ) {
        self.role = role
        self.name = name
        self.incarnation = incarnation
        self.numericsVersion = numericsVersion
        self.manifestDigest = manifestDigest
        self.features = features
        self.rowCredits = rowCredits
        self.limits = limits
    }
}

/// Times and sizes that bound what a peer can hold up or make this side hold.
package struct ConnectionLimits: Sendable {
    /// From the connection's start to the end of the handshake.
    package var handshakeTimeout: TimeAmount = .seconds(5)
    /// A peer that sent nothing for this long is pinged, and given up after three times as long. Time in which this
    /// side's own event loop stood still does not count.
    package var keepaliveInterval: TimeAmount = .seconds(5)
    /// Longest silence in the middle of a frame.
    package var frameSilence: TimeAmount = .seconds(5)
    /// How long a closing connection waits for the peer to take the last bytes.
    package var linger: TimeAmount = .seconds(1)
    /// Largest payload accepted from workers and coordinators.
    package var maximumPayloadBytes = Frame.maximumPayloadBytes
    /// Largest payload accepted from applications.
    package var maximumClientPayloadBytes = Frame.maximumClientPayloadBytes
    /// Unsent bytes above which the connection says that it is not writable; writable again below half of it.
    package var writableBytes = 4 << 20
    /// Unsent bytes above which the peer is taken for stuck and cut: four of the largest frames.
    package var maximumOutgoingBytes = 4 * Frame.maximumPayloadBytes
    /// The same on a connection that an application dialled, which anybody may do: what one of them does not read is
    /// paid for by all.
    package var maximumClientOutgoingBytes = 8 << 20

    package init() {}
}

/// Who the other side is, as agreed in the handshake.
package struct PeerIdentity: Sendable, Equatable {
    /// Role of the connection, that is, of the side that dialled.
    package var role: ProtoHello.Role
    package var name: String
    package var incarnation: UInt64
    package var numericsVersion: UInt32
    /// What the dialling side named; empty on the dialling side itself, as the welcome does not repeat it.
    package var manifestDigest: [UInt8]
    /// The lower one of both sides' minor versions.
    package var minorVersion: UInt32
    /// Features that both sides understand.
    package var features: [String]
    /// Rows of expert work that this side may have under way at the peer.
    package var rowCredits: UInt32
    /// Largest payload the peer accepts.
    package var maximumPayloadBytes: Int
}
