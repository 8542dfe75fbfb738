import Coordinator
import Foundation
import Glibc
import Placement
import Wire

/// Reads a list of tenants (``Tenants``).
///
///     tenants:
///       - name: research
///         sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
///         weight: 2
///       - name: nightly
///         key: sk-9f2c41d7
///         weight: 0.5
enum TenantsFile {
    /// - Throws: ``CommandError`` that names the file, what is wrong and what would be right, and never a key.
    static func read(_ path: String) throws -> Tenants {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw CommandError.usage("--tenants \(path): the file cannot be read")
        }
        var status = stat()
        let isOpen = stat(path, &status) == 0 && status.st_mode & S_IROTH != 0
        return try parse(String(decoding: data, as: UTF8.self), file: path, everybodyReads: isOpen)
    }

    /// - Parameter everybodyReads: keys in the file are no secret then.
    static func parse(_ text: String, file: String, everybodyReads: Bool) throws -> Tenants {
        let list = try YAMLFile.decode(List.self, text, file: file, what: "list of tenants", begins: "tenants:")
        if everybodyReads, list.tenants.contains(where: \.holdsKey) {
            throw CommandError.usage(
                "\(file): every user of this machine may read the keys in it; chmod 600 it, or write sha256 in place of key"
            )
        }
        do {
            return try Tenants(list.tenants.map(\.tenant))
        } catch {
            throw CommandError.usage("\(file): \(error.message)")
        }
    }

    private struct List: Decodable {
        let tenants: [Entry]

        init(from decoder: any Decoder) throws {
            let container = try StrictKeys.container(of: decoder, what: "list of tenants", known: ["tenants"])
            tenants = try container.decode([Entry].self, forKey: StrictKeys("tenants"))
        }
    }

    private struct Entry: Decodable {
        let tenant: Tenants.Tenant
        let holdsKey: Bool

        init(from decoder: any Decoder) throws {
            let container = try StrictKeys.container(
                of: decoder, what: "tenant", known: ["name", "key", "sha256", "weight"])
            let name = try container.decode(String.self, forKey: StrictKeys("name"))
            let weight = try container.decodeIfPresent(Double.self, forKey: StrictKeys("weight")) ?? 1
            let key = try container.decodeIfPresent(String.self, forKey: StrictKeys("key"))
            let digest = try container.decodeIfPresent(String.self, forKey: StrictKeys("sha256"))
            switch (key, digest) {
            case (let key?, nil) where !key.isEmpty:
                tenant = Tenants.Tenant(name: name, key: key, weight: weight)
                holdsKey = true
            case (nil, let digest?):
                guard let bytes = Self.bytes(hexadecimal: digest) else {
                    throw DecodingError.dataCorruptedError(
                        forKey: StrictKeys("sha256"), in: container,
                        debugDescription: "\(2 * Tenants.digestBytes) hexadecimal digits are expected")
                }
                tenant = Tenants.Tenant(name: name, keyDigest: bytes, weight: weight)
                holdsKey = false
            default:
                throw DecodingError.dataCorrupted(
                    .init(
                        codingPath: container.codingPath,
                        debugDescription: "one of key, which is not empty, and sha256, the key's digest, is expected"))
            }
        }

        private static func bytes(hexadecimal text: String) -> [UInt8]? {
            guard text.utf8.count == 2 * Tenants.digestBytes else { return nil }
            var bytes: [UInt8] = []
            var high: UInt8?
            for character in text {
                guard let digit = character.hexDigitValue.flatMap(UInt8.init(exactly:)) else { return nil }
                if let first = high { bytes.append(first << 4 | digit) }
                high = high == nil ? digit : nil
            }
            return bytes.count == Tenants.digestBytes ? bytes : nil
        }
    }
}
