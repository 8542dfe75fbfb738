/// What the engine refuses, with a stable code and a message that names the field, what was found and the limit.
package struct EngineError: Error, CustomStringConvertible, Equatable {
    /// `token_range`, `position_range`, `page_range`, `layer_range`, `expert_range`, `row_format`, `row_count`, `not_held`,
    /// `numerics_mismatch`, `memory`, `memory_insufficient` or `model_shape`.
    package let code: String
    package let message: String

    package init(code: String, message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { "\(code): \(message)" }
}
