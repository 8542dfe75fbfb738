/// A tensor that a blob has to have.
struct TensorPlan: Sendable, Equatable {
    var name: String
    var rows: Int
    var columns: Int
    var panels: Bool
    /// The only format allowed; nil where any is.
    var format: TensorFormat?
}

extension ModelShape {
    /// What the blobs of this shape hold, in their order in the blob.
    var embeddingPlan: [TensorPlan] {
        [TensorPlan(name: "embedding", rows: vocabulary, columns: hidden, panels: false)]
    }

    var headPlan: [TensorPlan] {
        [
            TensorPlan(name: "norm", rows: 1, columns: hidden, panels: false, format: .f32),
            TensorPlan(name: "output", rows: vocabulary, columns: hidden, panels: true),
        ]
    }

    var densePlan: [TensorPlan] {
        [
            TensorPlan(name: "attention_norm", rows: 1, columns: hidden, panels: false, format: .f32),
            TensorPlan(name: "wq", rows: heads * headDimension, columns: hidden, panels: true),
            TensorPlan(name: "wk", rows: keyValueHeads * headDimension, columns: hidden, panels: true),
            TensorPlan(name: "wv", rows: keyValueHeads * headDimension, columns: hidden, panels: true),
            TensorPlan(name: "wo", rows: hidden, columns: heads * headDimension, panels: true),
            TensorPlan(name: "ffn_norm", rows: 1, columns: hidden, panels: false, format: .f32),
            TensorPlan(name: "gate", rows: experts, columns: hidden, panels: true, format: .f32),
        ]
    }

    var expertPlan: [TensorPlan] {
        [
            TensorPlan(name: "w1", rows: feedForward, columns: hidden, panels: true),
            TensorPlan(name: "w2", rows: hidden, columns: feedForward, panels: true),
            TensorPlan(name: "w3", rows: feedForward, columns: hidden, panels: true),
        ]
    }

    /// Checks that the numbers are possible, so that products of two of them cannot overflow later.
    ///
    /// - Throws: ``ModelError`` with the code `value_invalid`, naming the field.
    func validate(file: String) throws {
        let dimension = 1...(1 << 20)
        let fields: [(String, Int, ClosedRange<Int>)] = [
            ("layers", layers, 1...65_535), ("hidden", hidden, dimension), ("heads", heads, 1...65_535),
            ("keyValueHeads", keyValueHeads, 1...65_535), ("headDimension", headDimension, 1...65_536),
            ("feedForward", feedForward, dimension), ("experts", experts, 1...65_535),
            ("expertsUsed", expertsUsed, 1...max(1, experts)), ("vocabulary", vocabulary, 1...(1 << 24)),
            ("contextLength", contextLength, 1...(1 << 24)),
        ]
        for (name, value, range) in fields where !range.contains(value) {
            throw ModelError(
                .valueInvalid, "out of range", file: file, field: name, found: "\(value)",
                limit: "\(range.lowerBound) to \(range.upperBound)")
        }
        func check(_ condition: Bool, _ field: String, _ found: String, _ limit: String) throws {
            guard condition else {
                throw ModelError(.valueInvalid, "impossible", file: file, field: field, found: found, limit: limit)
            }
        }
        try check(
            heads % keyValueHeads == 0, "keyValueHeads", "\(keyValueHeads)", "a divisor of the \(heads) query heads")
        try check(headDimension % 2 == 0, "headDimension", "\(headDimension)", "an even number")
        try check(
            heads * headDimension <= TensorFormat.maximumDimension, "heads", "\(heads) of \(headDimension)",
            "at most \(TensorFormat.maximumDimension) together")
        try check(ropeTheta.isFinite && ropeTheta > 0, "ropeTheta", "\(ropeTheta)", "a positive number")
        try check(normEpsilon.isFinite && normEpsilon >= 0, "normEpsilon", "\(normEpsilon)", "a number from 0")
        let tokens = 0..<vocabulary
        try check(tokens.contains(Int(beginToken)), "beginToken", "\(beginToken)", "below \(vocabulary)")
        try check(tokens.contains(Int(endToken)), "endToken", "\(endToken)", "below \(vocabulary)")
    }
}

extension Manifest {
    /// The largest blob that is believed: 64 TiB, so that sums of sizes cannot overflow.
    static let maximumBlobBytes = 1 << 46

    /// Checks everything that a reader of the blobs relies on: versions, the shape, that every blob holds the tensors
    /// that the shape asks for, in places that lie inside it, and that blobs' names are hashes and no paths.
    ///
    /// - Throws: ``ModelError`` with the code `manifest_invalid` or `value_invalid`, naming the field.
    package func validate(file: String) throws {
        func check(_ condition: Bool, _ field: String, found: String, limit: String) throws {
            guard condition else {
                throw ModelError(
                    .manifestInvalid, "inconsistent manifest", file: file, field: field, found: found, limit: limit)
            }
        }
        try check(
            formatVersion == Self.currentFormatVersion, "formatVersion", found: "\(formatVersion)",
            limit: "\(Self.currentFormatVersion); import the model again")
        try check(
            numericsVersion == Self.currentNumericsVersion, "numericsVersion", found: "\(numericsVersion)",
            limit: "\(Self.currentNumericsVersion); import the model again")
        try check(Store.isValidName(name), "name", found: name, limit: Store.nameRule)
        try shape.validate(file: file)
        try check(layers.count == shape.layers, "layers", found: "\(layers.count)", limit: "\(shape.layers)")

        try Self.validate(tokenizer, against: [], field: "tokenizer", file: file)
        try Self.validate(embedding, against: shape.embeddingPlan, field: "embedding", file: file)
        try Self.validate(head, against: shape.headPlan, field: "head", file: file)
        let densePlan = shape.densePlan
        let expertPlan = shape.expertPlan
        for (index, layer) in layers.enumerated() {
            try Self.validate(layer.dense, against: densePlan, field: "layers[\(index)].dense", file: file)
            try check(
                layer.experts.count == shape.experts, "layers[\(index)].experts", found: "\(layer.experts.count)",
                limit: "\(shape.experts)")
            for (expert, blob) in layer.experts.enumerated() {
                try Self.validate(blob, against: expertPlan, field: "layers[\(index)].experts[\(expert)]", file: file)
            }
        }
    }

    private static func validate(
        _ blob: BlobReference, against plans: [TensorPlan], field: String, file: String
    ) throws {
        func check(_ condition: Bool, _ part: String, found: String, limit: String) throws {
            guard condition else {
                throw ModelError(
                    .manifestInvalid, "inconsistent manifest", file: file, field: "\(field)\(part)", found: found,
                    limit: limit)
            }
        }
        try check(
            Store.isBlobName(blob.sha256),
            ".sha256", found: blob.sha256, limit: "64 lower-case hexadecimal digits")
        try check(
            (1...maximumBlobBytes).contains(blob.bytes), ".bytes", found: "\(blob.bytes)",
            limit: "1 to \(maximumBlobBytes)")
        try check(
            blob.tensors.map(\.name) == plans.map(\.name), ".tensors",
            found: blob.tensors.map(\.name).joined(separator: " "), limit: plans.map(\.name).joined(separator: " "))
        var end = 0
        for (tensor, plan) in zip(blob.tensors, plans) {
            let part = ".\(plan.name)"
            try check(
                tensor.rows == plan.rows && tensor.columns == plan.columns, part,
                found: "\(tensor.rows) x \(tensor.columns)", limit: "\(plan.rows) x \(plan.columns)")
            try check(
                tensor.columns % tensor.format.blockSize == 0, part, found: "\(tensor.columns) columns",
                limit: "whole blocks of \(tensor.format.blockSize)")
            try check(
                plan.format == nil || plan.format == tensor.format, "\(part).format", found: tensor.format.rawValue,
                limit: "f32")
            try check(
                tensor.panels == plan.panels, "\(part).panels", found: "\(tensor.panels)", limit: "\(plan.panels)")
            let bytes = tensor.format.matrixBytes(rows: tensor.rows, columns: tensor.columns, panels: tensor.panels)
            try check(tensor.bytes == bytes, "\(part).bytes", found: "\(tensor.bytes)", limit: "\(bytes)")
            try check(
                tensor.offset >= end && tensor.offset % 64 == 0 && tensor.offset <= blob.bytes - min(bytes, blob.bytes)
                    && bytes <= blob.bytes, "\(part).offset", found: "\(tensor.offset)",
                limit: "a multiple of 64 from \(end), \(bytes) bytes before the end at \(blob.bytes)")
            end = tensor.offset + bytes
        }
    }
}
