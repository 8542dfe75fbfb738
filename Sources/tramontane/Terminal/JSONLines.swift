import JSONText

/// What is wrong with one line of input.
struct LineError: Error {
    let code: String
    let message: String
}

/// Answers lines of JSON on standard input with lines of JSON on standard output, one for one.
enum JSONLines {
    /// - Parameter body: the answer to a line, with its newline.
    /// - Throws: ``CommandError`` at the end when a line was answered by an error.
    static func answer(_ body: (JSONValue) throws -> String) throws {
        var reader = LineReader()
        var bad = 0
        while let line = try reader.next() {
            // An empty line, such as an editor leaves at the end, asks nothing.
            if line.allSatisfy({ $0 == 0x20 || $0 == 0x09 }) { continue }
            do {
                try StandardOutput.write(try body(JSONValue(parsing: line)))
            } catch let error as CommandError {
                throw error
            } catch {
                bad += 1
                try StandardOutput.write(answer(to: error, line: reader.number))
            }
        }
        if bad > 0 {
            throw CommandError.failure("\(bad) of \(reader.number) lines were wrong, each is answered by an error")
        }
    }

    private static func answer(to error: any Error, line: Int) -> String {
        let (code, message) = explain(error)
        return JSONLine.object { object in
            object.object("error") { object in
                object.string("code", code)
                object.string("message", "line \(line): \(message)")
            }
        }
    }
}
