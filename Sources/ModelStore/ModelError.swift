/// What is wrong with a model file, a manifest or a store, said so that its reader can find the place.
///
/// Everything that this module reads is untrusted: every check that fails ends here, never in a trap. The code is
/// stable and meant for programs, the message for people.
package struct ModelError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The stable codes.
    package enum Code: String, Sendable, CaseIterable {
        /// A file that is needed is not there.
        case fileMissing = "file_missing"
        /// The system refused to open, read or examine a file.
        case fileUnreadable = "file_unreadable"
        /// A file ends before what it announces.
        case fileTruncated = "file_truncated"
        /// A file is none of the formats that are read.
        case formatUnknown = "format_unknown"
        /// Well-formed, but something that this engine does not compute.
        case unsupported = "unsupported"
        /// The header's syntax is broken.
        case headerInvalid = "header_invalid"
        /// A value is missing, of the wrong type or out of range.
        case valueInvalid = "value_invalid"
        /// A key, a tensor or a piece appears twice.
        case duplicate = "duplicate"
        /// A tensor's dimensions are impossible or not what the configuration says.
        case shapeInvalid = "shape_invalid"
        /// A tensor's bytes lie outside the file, are misaligned, overlap another's or leave a hole.
        case offsetInvalid = "offset_invalid"
        /// A tensor that the architecture needs is missing.
        case tensorMissing = "tensor_missing"
        /// A tensor that the architecture does not have, so that leaving it out would change the model.
        case tensorUnexpected = "tensor_unexpected"
        /// A weight or a scale is infinite or not a number.
        case notFinite = "not_finite"
        /// The tokenizer is broken or does not belong to the weights.
        case tokenizerInvalid = "tokenizer_invalid"
        /// A manifest is broken or contradicts itself.
        case manifestInvalid = "manifest_invalid"
        /// A blob's file is missing.
        case blobMissing = "blob_missing"
        /// A blob's file does not have the size that the manifest says.
        case blobSize = "blob_size"
        /// A blob's content is not what its name says.
        case blobAltered = "blob_altered"
        /// The store could not be written.
        case storeUnwritable = "store_unwritable"
        /// Nothing has the name that was asked for.
        case modelUnknown = "model_unknown"
        /// An argument of the caller's is not possible.
        case argumentInvalid = "argument_invalid"
    }

    /// The stable code, one of ``Code``.
    package let code: String
    /// The file that is at fault, where there is one.
    package let file: String?
    /// The key, tensor or part of it.
    package let field: String?
    /// Where in the file, in bytes.
    package let offset: UInt64?
    /// What was found there.
    package let found: String?
    /// What would have been right.
    package let limit: String?
    /// What is wrong, in words.
    package let problem: String

    package init(
        _ code: Code, _ problem: String, file: String? = nil, field: String? = nil, offset: UInt64? = nil,
        found: String? = nil, limit: String? = nil
    ) {
        self.code = code.rawValue
        self.problem = problem
        self.file = file
        self.field = field.map(Self.printable)
        self.offset = offset
        self.found = found.map(Self.printable)
        self.limit = limit
    }

    /// File, field, offset, what is wrong, found, limit, in one line.
    package var message: String {
        var text = ""
        if let file { text += "\(file): " }
        if let field { text += "\(field): " }
        text += problem
        if let found { text += ", found \(found)" }
        if let limit { text += ", expected \(limit)" }
        if let offset { text += " (at byte \(offset))" }
        return text
    }

    package var description: String { "\(message) [\(code)]" }

    /// Text out of a file as it may stand in a log: on one line, of bounded length.
    private static func printable(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(120) {
            result += scalar.value < 0x20 || scalar.value == 0x7F ? "?" : String(scalar)
        }
        return text.unicodeScalars.dropFirst(120).isEmpty ? result : result + "…"
    }
}
