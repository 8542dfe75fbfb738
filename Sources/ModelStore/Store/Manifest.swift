import Crypto
import Foundation

/// The dimensions of a model and what else the decoder must know of it.
package struct ModelShape: Codable, Sendable, Equatable {
    package var layers: Int
    /// Values of a hidden state.
    package var hidden: Int
    /// Query heads.
    package var heads: Int
    /// Heads of keys and values; each serves `heads / keyValueHeads` query heads.
    package var keyValueHeads: Int
    package var headDimension: Int
    /// Inner values of an expert.
    package var feedForward: Int
    /// Experts of each layer.
    package var experts: Int
    /// Experts that each token is sent to.
    package var expertsUsed: Int
    package var vocabulary: Int
    /// Positions that the model was made for.
    package var contextLength: Int
    /// The base of the rotary embedding's frequencies.
    package var ropeTheta: Float
    package var normEpsilon: Float
    /// `<s>`
    package var beginToken: Int32
    /// `</s>`
    package var endToken: Int32

    package init(
        layers: Int, hidden: Int, heads: Int, keyValueHeads: Int, headDimension: Int, feedForward: Int, experts: Int,
        expertsUsed: Int, vocabulary: Int, contextLength: Int, ropeTheta: Float, normEpsilon: Float, beginToken: Int32,
        endToken: Int32
    ) {
        self.layers = layers
        self.hidden = hidden
        self.heads = heads
        self.keyValueHeads = keyValueHeads
        self.headDimension = headDimension
        self.feedForward = feedForward
        self.experts = experts
        self.expertsUsed = expertsUsed
        self.vocabulary = vocabulary
        self.contextLength = contextLength
        self.ropeTheta = ropeTheta
        self.normEpsilon = normEpsilon
        self.beginToken = beginToken
        self.endToken = endToken
    }
}

/// A tensor in a blob.
package struct TensorEntry: Codable, Sendable, Equatable {
    package var name: String
    package var format: TensorFormat
    /// Outputs of a matrix; 1 for a vector.
    package var rows: Int
    /// Inputs of a matrix; the values of a vector.
    package var columns: Int
    /// From the beginning of the blob, a multiple of 64.
    package var offset: Int
    package var bytes: Int
    /// Whether the rows are interleaved in panels of 16 (``Panels``); otherwise they follow each other.
    package var panels: Bool

    package init(
        name: String, format: TensorFormat, rows: Int, columns: Int, offset: Int, bytes: Int, panels: Bool
    ) {
        self.name = name
        self.format = format
        self.rows = rows
        self.columns = columns
        self.offset = offset
        self.bytes = bytes
        self.panels = panels
    }
}

/// A blob: its name in the store, and what lies in it.
package struct BlobReference: Codable, Sendable, Equatable {
    /// The SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    package var sha256: String
    package var bytes: Int
    /// In the order of their offsets; empty for the tokenizer.
    package var tensors: [TensorEntry]

    package init(sha256: String, bytes: Int, tensors: [TensorEntry]) {
        self.sha256 = sha256
        self.bytes = bytes
        self.tensors = tensors
    }
}

/// The blobs of a layer.
package struct LayerBlobs: Codable, Sendable, Equatable {
    /// `attention_norm`, `wq`, `wk`, `wv`, `wo`, `ffn_norm`, `gate`
    package var dense: BlobReference
    /// `w1`, `w2`, `w3` of each expert.
    package var experts: [BlobReference]

    package init(dense: BlobReference, experts: [BlobReference]) {
        self.dense = dense
        self.experts = experts
    }
}

/// What a model is made of: its shape and its blobs. Blobs may repeat: equal ones are stored once.
package struct Manifest: Codable, Sendable, Equatable {
    /// The version of this structure and of the panel layout.
    package static let currentFormatVersion = 3
    /// The version of the canonical order of floating-point operations that the layout was made for.
    package static let currentNumericsVersion = 2

    package var formatVersion: Int
    package var numericsVersion: Int
    package var name: String
    package var shape: ModelShape
    /// A SentencePiece model.
    package var tokenizer: BlobReference
    /// `embedding`, row after row.
    package var embedding: BlobReference
    /// `norm`, `output`
    package var head: BlobReference
    package var layers: [LayerBlobs]

    /// A manifest of the current versions.
    package init(
        name: String, shape: ModelShape, tokenizer: BlobReference, embedding: BlobReference, head: BlobReference,
        layers: [LayerBlobs]
    ) {
        formatVersion = Self.currentFormatVersion
        numericsVersion = Self.currentNumericsVersion
        self.name = name
        self.shape = shape
        self.tokenizer = tokenizer
        self.embedding = embedding
        self.head = head
        self.layers = layers
    }

    /// The manifest as it is stored: JSON with sorted keys.
    package var canonicalBytes: [UInt8] {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            return [UInt8](try encoder.encode(self))
        }
    }

    /// The SHA-256 of the canonical bytes: what two processes compare to know that they serve the same model. Empty
    /// only where the shape has numbers that JSON cannot express, which ``validate(file:)`` refuses.
    package var digest: [UInt8] {
        guard let bytes = try? canonicalBytes else { return [] }
        return [UInt8](SHA256.hash(data: bytes))
    }

    /// Every blob once, in the order of their first use.
    package var uniqueBlobs: [BlobReference] {
        var seen: Set<String> = []
        var result: [BlobReference] = []
        func add(_ blob: BlobReference) {
            if seen.insert(blob.sha256).inserted { result.append(blob) }
        }
        add(tokenizer)
        add(embedding)
        for layer in layers {
            add(layer.dense)
            layer.experts.forEach(add)
        }
        add(head)
        return result
    }
}
