import ModelStore

/// Shows on standard error how far an import or a verification is, where that is a terminal.
final class ProgressBar {
    private let title: String
    private var shown = ""

    init(_ title: String) {
        self.title = title
    }

    func show(_ progress: StoreProgress) {
        guard StandardError.isTerminal else { return }
        let line = Self.line(title, item: progress.item, done: progress.bytesDone, of: progress.bytes)
        // Only what changes on the screen is written.
        guard line != shown else { return }
        shown = line
        StandardError.write("\r\u{1B}[K\(line)")
    }

    /// Takes the bar off the screen.
    func clear() {
        guard !shown.isEmpty else { return }
        shown = ""
        StandardError.write("\r\u{1B}[K")
    }

    static func line(_ title: String, item: String, done: Int, of bytes: Int) -> String {
        let fraction = bytes > 0 ? min(1, max(0, Double(done) / Double(bytes))) : 1
        let filled = Int(fraction * 24)
        let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 24 - filled)
        return "\(title) \(bar) \(Int(fraction * 100))% \(ByteCount.text(UInt64(clamping: done))) of "
            + "\(ByteCount.text(UInt64(clamping: bytes))) \(item.prefix(32))"
    }
}

/// Sizes for people.
enum ByteCount {
    /// In binary units with one digit after the point: `1.5 MiB`.
    static func text(_ bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        guard unit > 0 else { return "\(bytes) B" }
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }
}
