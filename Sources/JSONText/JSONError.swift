/// Why a text is no JSON value, or none that is read.
package struct JSONError: Error, Equatable, CustomStringConvertible {
    /// From the first byte of the text.
    package let offset: Int
    /// What is wrong there, in words. Never a part of the text.
    package let problem: String
    /// The name that an object has twice, where that is what is wrong.
    package let duplicate: String?

    init(offset: Int, problem: String, duplicate: String? = nil) {
        self.offset = offset
        self.problem = problem
        self.duplicate = duplicate
    }

    /// A stable name for programs.
    package var code: String { "json" }

    /// One line for people.
    package var message: String { "offset \(offset): \(problem)" }

    package var description: String { "\(code): \(message)" }
}
