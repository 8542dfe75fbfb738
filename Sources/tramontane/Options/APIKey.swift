import ArgumentParser

/// A key that names a tenant.
enum APIKey {
    /// - Throws: `ValidationError` for what a header field could not carry.
    static func sendable(_ text: String) throws -> String {
        guard !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw ValidationError("characters of ASCII without spaces are wanted")
        }
        return text
    }

    /// - Throws: `ValidationError` for a key that nobody is sent.
    static func check(_ key: String?, isForCluster: Bool) throws {
        guard key == nil || isForCluster else {
            throw ValidationError("--api-key is for a cluster; --cluster HOST:PORT is missing")
        }
    }
}
