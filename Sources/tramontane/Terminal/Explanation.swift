import Engine
import JSONText
import ModelStore
import Tokenizer
import TramontaneClient
import Wire

/// The stable code of an error and its message, whatever module it comes from.
func explain(_ error: any Error) -> (code: String, message: String) {
    switch error {
    case let error as LineError: (error.code, error.message)
    case let error as JSONError: (error.code, error.message)
    case let error as TokenizerError: (error.code, error.message)
    case let error as EngineError: (error.code, error.message)
    case let error as ModelError: (error.code, error.message)
    case let error as TramontaneError: (error.code, error.message)
    case let error as Failure: (error.code, error.message)
    default: ("internal", Tramontane.describe(error))
    }
}
