import Crypto
package import Wire

/// Whom requests are served for. An API key names a tenant: one of the operator's list, or where there is none, one of
/// the key's own.
///
/// Keys are only ever kept as digests, and the name of a tenant that is not in a list is a beginning of one: it may stand
/// in logs and metrics.
package struct Tenants: Sendable {
    package struct Tenant: Sendable, Equatable {
        /// 1 to 64 bytes.
        package var name: String
        /// SHA-256.
        package var keyDigest: [UInt8]
        /// Share of the cluster beside the others'.
        package var weight: Double

        package init(name: String, keyDigest: [UInt8], weight: Double = 1) {
            self.name = name
            self.keyDigest = keyDigest
            self.weight = weight
        }

        package init(name: String, key: String, weight: Double = 1) {
            self.init(name: name, keyDigest: Tenants.digest(of: key), weight: weight)
        }
    }

    /// The tenant of requests without a key.
    package static let anonymous = ""
    package static let weightRange = 0.001...1000.0
    /// More than a list that people write; keeps what is kept for each tenant bounded.
    package static let listLimit = 10_000
    package static let digestBytes = 32
    /// Several times what anybody issues; longer ones are not even hashed.
    private static let keyBytes = 4096
    private static let nameBytes = 1...64

    /// Names by the digest of their key; nil where every key is a tenant.
    private let listed: [[UInt8]: String]?
    /// Of the listed tenants; every other one's weight is 1.
    package let weights: [String: Double]

    /// Every key is a tenant of weight 1, and so is no key.
    package init() {
        listed = nil
        weights = [:]
    }

    /// These tenants and no others.
    /// - Throws: `Failure` with the code `tenants_invalid`. It names no key.
    package init(_ list: [Tenant]) throws(Failure) {
        guard (1...Self.listLimit).contains(list.count) else {
            throw Self.invalid("\(list.count) tenants, 1 to \(Self.listLimit) are allowed")
        }
        var listed: [[UInt8]: String] = [:]
        var weights: [String: Double] = [:]
        for tenant in list {
            guard Self.nameBytes.contains(tenant.name.utf8.count) else {
                throw Self.invalid(
                    "a name of \(tenant.name.utf8.count) bytes, \(Self.nameBytes.lowerBound) to "
                        + "\(Self.nameBytes.upperBound) are allowed")
            }
            let name = RequestError.quoted(tenant.name)
            guard Self.weightRange.contains(tenant.weight) else {
                throw Self.invalid(
                    "\(name): weight \(tenant.weight), \(Self.weightRange.lowerBound) to "
                        + "\(Self.weightRange.upperBound) are allowed")
            }
            guard tenant.keyDigest.count == Self.digestBytes else {
                throw Self.invalid("\(name): a digest of \(tenant.keyDigest.count) bytes, SHA-256 has 32")
            }
            guard weights.updateValue(tenant.weight, forKey: tenant.name) == nil else {
                throw Self.invalid("\(name) appears twice")
            }
            if let other = listed.updateValue(tenant.name, forKey: tenant.keyDigest) {
                throw Self.invalid("\(name) and \(RequestError.quoted(other)) have the same key")
            }
        }
        self.listed = listed
        self.weights = weights
    }

    /// - Parameter key: as it came from outside; empty for none.
    /// - Throws: `invalid_api_key`
    package func tenant(ofKey key: String) throws(RequestError) -> String {
        guard key.utf8.count <= Self.keyBytes else {
            throw .invalidKey("the API key has \(key.utf8.count) bytes, at most \(Self.keyBytes) are allowed")
        }
        guard let listed else {
            return key.isEmpty ? Self.anonymous : "key-" + Self.hexadecimal(Self.digest(of: key).prefix(8))
        }
        guard !key.isEmpty else { throw .invalidKey("no API key was given, and one is needed here") }
        guard let name = listed[Self.digest(of: key)] else { throw .invalidKey("the API key is not known here") }
        return name
    }

    private static func digest(of key: String) -> [UInt8] {
        var hash = SHA256()
        hash.update(data: Array(key.utf8))
        return Array(hash.finalize())
    }

    private static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        bytes.reduce(into: "") { $0 += ($1 < 16 ? "0" : "") + String($1, radix: 16) }
    }

    private static func invalid(_ message: String) -> Failure {
        Failure(code: "tenants_invalid", message: "tenants: \(message)")
    }
}
