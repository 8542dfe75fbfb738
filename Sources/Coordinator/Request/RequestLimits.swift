/// What one request may hold, whichever way it came: HTTP and the binary port refuse the same, in the same words. They
/// bound the work and the memory behind one request; the queue bounds how many there are.
package enum RequestLimits {
    package static let maxTokens = 1...Int(Int32.max)
    package static let temperature = 0.0...100.0
    package static let topK = 0...Int(Int32.max)
    package static let choice = 0...Int(Int32.max)
    package static let logitBias: ClosedRange<Float> = -100...100
    package static let logitBiases = 1024
    package static let stops = 16
    package static let stopBytes = 1...1024
    /// More than that, each of a token at least, fit into no context that is served, and a decoded message takes a hundred
    /// times the memory of an encoded one.
    package static let messages = 1...4096
    package static let tools = 128
    /// Keeps one request's tokenising bounded: more bytes cannot fit into any context that is served.
    package static let promptBytesPerToken = 64
    /// Keeps a score's answer within a client's frame.
    package static let scorePairs = 400_000
    package static let defaultCompletionTokens = 16
    package static let priority = -1000...1000
    /// Up to a day.
    package static let deadlineMilliseconds = 1...86_400_000
}

extension RequestLimits {
    /// - Parameter name: what the caller's interface calls the field.
    package static func check(maxTokens: Int?, named name: String = "max_tokens") throws(RequestError) {
        guard let maxTokens else { return }
        try check(name, maxTokens, Self.maxTokens)
    }

    static func check(stops count: Int) throws(RequestError) {
        guard count <= stops else { throw .invalid("stop", "\(count) strings, at most \(stops) are allowed") }
    }

    static func check(logitBiases count: Int) throws(RequestError) {
        guard count <= logitBiases else {
            throw .invalid("logit_bias", "\(count) tokens, at most \(logitBiases) are allowed")
        }
    }

    static func check(messages count: Int) throws(RequestError) {
        guard messages.contains(count) else {
            throw .invalid(
                "messages", "\(count) messages, \(messages.lowerBound) to \(messages.upperBound) are allowed")
        }
    }

    static func check(tools count: Int) throws(RequestError) {
        guard count <= tools else { throw .invalid("tools", "\(count) tools, at most \(tools) are allowed") }
    }

    static func check(tokens: [Int32], vocabulary: Int) throws(RequestError) {
        guard !tokens.isEmpty else { throw .invalid("prompt", "no tokens, at least 1 is needed") }
        for (index, token) in tokens.enumerated() where token < 0 || Int(token) >= vocabulary {
            throw .invalid("prompt", "token \(token) at \(index), 0 to \(vocabulary - 1) are allowed")
        }
    }

    /// Bytes of text that are to become tokens.
    static func check(promptBytes: Int, contextLength: Int) throws(RequestError) {
        let (limit, overflow) = contextLength.multipliedReportingOverflow(by: promptBytesPerToken)
        guard overflow || promptBytes <= limit else {
            throw RequestError(
                .invalid, code: "prompt_too_long", message: "prompt: \(promptBytes) bytes, at most \(limit) are read",
                parameter: "prompt")
        }
    }

    static func check(priority: Int, deadlineMilliseconds: Int?) throws(RequestError) {
        try check("priority", priority, Self.priority)
        if let deadlineMilliseconds { try check("deadline_ms", deadlineMilliseconds, Self.deadlineMilliseconds) }
    }

    fileprivate static func check(
        _ name: String, _ value: Int, _ range: ClosedRange<Int>
    ) throws(RequestError) {
        guard range.contains(value) else {
            throw .invalid(name, "\(value), \(range.lowerBound) to \(range.upperBound) are allowed")
        }
    }
}

extension GenerationRequest {
    /// Checks all that can be checked without a tokenizer.
    package func check(vocabulary: Int) throws(RequestError) {
        try sampling.check(vocabulary: vocabulary)
        try RequestLimits.check(maxTokens: maxTokens)
        try RequestLimits.check(priority: priority, deadlineMilliseconds: deadlineMilliseconds)
        try RequestLimits.check(stops: stop.count)
        let stopBytes = RequestLimits.stopBytes
        for string in stop where !stopBytes.contains(string.utf8.count) {
            throw .invalid(
                "stop",
                "a string of \(string.utf8.count) bytes, \(stopBytes.lowerBound) to \(stopBytes.upperBound) are allowed"
            )
        }
        switch prompt {
        case .text(let text):
            guard !text.isEmpty else { throw .invalid("prompt", "empty") }
        case .tokens(let tokens):
            try RequestLimits.check(tokens: tokens, vocabulary: vocabulary)
        case .chat(let messages, let tools):
            try RequestLimits.check(messages: messages.count)
            try RequestLimits.check(tools: tools.count)
        }
    }
}

extension SamplingOptions {
    fileprivate func check(vocabulary: Int) throws(RequestError) {
        if let temperature, !RequestLimits.temperature.contains(temperature) {
            throw .invalid("temperature", "\(temperature), 0 to 100 are allowed")
        }
        if let topP, !(topP > 0 && topP <= 1) { throw .invalid("top_p", "\(topP), above 0 up to 1 is allowed") }
        if let minP, !(minP >= 0 && minP <= 1) { throw .invalid("min_p", "\(minP), 0 to 1 is allowed") }
        if let topK { try RequestLimits.check("top_k", topK, RequestLimits.topK) }
        try RequestLimits.check("choice", choice, RequestLimits.choice)
        try RequestLimits.check(logitBiases: logitBias.count)
        var biased = Set<Int32>()
        for (token, bias) in logitBias {
            guard token >= 0, Int(token) < vocabulary else {
                throw .invalid("logit_bias", "token \(token), 0 to \(vocabulary - 1) are allowed")
            }
            guard RequestLimits.logitBias.contains(bias) else {
                throw .invalid("logit_bias", "\(bias) for token \(token), -100 to 100 are allowed")
            }
            guard biased.insert(token).inserted else {
                throw .invalid("logit_bias", "token \(token) appears twice")
            }
        }
    }
}
