import Glibc
import NIOCore
import NIOPosix

/// What an operation on a socket failed of, in the system's words, without the names of calls and types.
package func systemMessage(of error: any Error) -> String {
    switch error {
    case let error as IOError:
        String(cString: strerror(error.errnoCode))
    case let error as NIOConnectionError:
        if let cause = error.connectionErrors.first?.error {
            systemMessage(of: cause)
        } else {
            "the host's name cannot be resolved"
        }
    default:
        "\(error)"
    }
}
