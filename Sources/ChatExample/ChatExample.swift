import Foundation
import TramontaneClient

/// Asks a cluster one question and prints the answer as it comes: `ChatExample HOST PORT QUESTION`.
@main
struct ChatExample {
    static func main() async {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let port = Int(arguments[2]) else {
            end("usage: ChatExample HOST PORT QUESTION", status: 64)
        }
        do {
            let client = try await TramontaneClient.connect(host: arguments[1], port: port)
            let answer = client.chat([.user(arguments[3])], options: GenerationOptions(temperature: 0, maxTokens: 64))
            for try await token in answer {
                print(token.text, terminator: "")
            }
            print("\n(\(answer.outcome?.finishReason.rawValue ?? "unfinished"))")
            await client.close()
        } catch {
            // A `TramontaneError`: a stable code, and a line for people.
            end("\(error)", status: 1)
        }
    }

    private static func end(_ message: String, status: Int32) -> Never {
        FileHandle.standardError.write(Data("\(message)\n".utf8))
        exit(status)
    }
}
