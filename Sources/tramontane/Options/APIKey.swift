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
}
