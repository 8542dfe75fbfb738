import ArgumentParser
import Foundation
import JSONText
import Tokenizer

/// Shows what a tokenizer makes of texts and chats.
struct TokenizeCommand: Command {
    static let example = #"echo '{"text": "Hello"}' | tramontane tokenize --tokenizer cluster/demo/tokenizer.model"#
    static let configuration = commandConfiguration(
        "tokenize", "Turns lines of JSON into tokens.",
        """
        Reads {"text": …} and prints {"ids": […], "decoded": …}, without <s>; with --chat reads {"messages": […], "tools": …} \
        and prints {"ids": […]}, with <s>. A line that is wrong is answered by {"error": …}, and the status is 1 at the end.
        """)
    static let settings: [Setting] = [.option("tokenizer"), .option("chat")]

    @Option(help: ArgumentHelp("A SentencePiece model.", valueName: "file"))
    var tokenizer: String

    @Option(help: ArgumentHelp("Lay out chats in this format: v1 or v3.", valueName: "format"))
    var chat: ChatFormat?

    @OptionGroup var settingsFile: SettingsFile

    func run() throws {
        let tokenizer = try load()
        try JSONLines.answer { line in
            if let chat {
                let ids = try tokenizer.encodeChat(
                    ChatMessage.list(line["messages"]), tools: Tool.list(line["tools"]), format: chat)
                return JSONLine.object { $0.numbers("ids", ids) }
            }
            guard let text = line["text"]?.string else {
                throw LineError(code: "text_missing", message: #"{"text": "…"} is wanted"#)
            }
            let ids = tokenizer.encode(text)
            return JSONLine.object { object in
                object.numbers("ids", ids)
                object.string("decoded", tokenizer.decode(ids))
            }
        }
    }

    private func load() throws -> Tokenizer {
        let bytes: Data
        do {
            bytes = try Data(contentsOf: URL(filePath: tokenizer))
        } catch {
            throw CommandError.failure("--tokenizer \(tokenizer): the file cannot be read")
        }
        do {
            return try Tokenizer(model: [UInt8](bytes))
        } catch let error as TokenizerError {
            throw CommandError.failure("--tokenizer \(tokenizer): \(error)")
        }
    }
}

extension ChatFormat: ExpressibleByArgument {}
