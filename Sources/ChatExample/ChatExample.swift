import TramontaneClient

/// Asks a cluster one question and prints the answer as it comes: `ChatExample HOST PORT QUESTION`.
@main
struct ChatExample {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let port = Int(arguments[2]) else {
            print("usage: ChatExample HOST PORT QUESTION")
            return
        }
        let client = try await TramontaneClient.connect(host: arguments[1], port: port)
        let answer = client.chat([.user(arguments[3])], options: GenerationOptions(temperature: 0, maxTokens: 64))
        for try await token in answer {
            print(token.text, terminator: "")
        }
        print("\n(\(answer.outcome?.finishReason.rawValue ?? "unfinished"))")
        await client.close()
    }
}
