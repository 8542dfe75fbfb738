import CKernels
import ModelStore
import Testing

/// A seeded generator (SplitMix64), so that a failure can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// Floats in -1 ..< 1, times a random power of two between 2^-`spread` and 2^`spread`.
    mutating func float(spread: Int = 0) -> Float {
        let exponent = spread == 0 ? 0 : Int.random(in: -spread...spread, using: &self)
        return Float(sign: .plus, exponent: exponent, significand: Float.random(in: -1..<1, using: &self))
    }

    mutating func floats(_ count: Int, spread: Int = 0) -> [Float] {
        (0..<count).map { _ in float(spread: spread) }
    }
}

/// Instruction sets of this machine, portable first.
let availableSets: [tk_isa] = (0..<TK_ISA_COUNT.rawValue).map { tk_isa(rawValue: $0) }.filter(tk_isa_available)

/// Those that are held against the portable one.
let vectorSets: [tk_isa] = availableSets.filter { $0 != TK_ISA_PORTABLE }

func name(_ isa: tk_isa) -> String { String(cString: tk_isa_name(isa)) }

extension TensorFormat {
    var kernel: tk_format {
        switch self {
        case .f32: TK_FORMAT_F32
        case .f16: TK_FORMAT_F16
        case .bf16: TK_FORMAT_BF16
        case .q8_0: TK_FORMAT_Q8_0
        case .q4_0: TK_FORMAT_Q4_0
        case .q4_K: TK_FORMAT_Q4_K
        case .q5_K: TK_FORMAT_Q5_K
        case .q6_K: TK_FORMAT_Q6_K
        }
    }
}

/// A random matrix: rows as in a source, the same packed into panels, and its values in double precision.
struct Matrix {
    enum Contents {
        /// Any bytes, with scales that are finite and of ordinary size.
        case random
        /// Every quant, scale and minimum as large as the format can say, of either sign.
        case extreme
    }

    let format: TensorFormat
    let rows: Int
    let columns: Int
    let source: [UInt8]
    let panels: [UInt8]

    init(
        _ format: TensorFormat, rows: Int, columns: Int, contents: Contents = .random,
        using generator: inout SeededGenerator
    ) {
        self.format = format
        self.rows = rows
        self.columns = columns
        let blocks = columns / format.blockSize
        var source: [UInt8] = []
        source.reserveCapacity(rows * format.rowBytes(columns: columns))
        for _ in 0..<rows * blocks {
            source += Self.block(format, contents, using: &generator)
        }
        self.source = source

        let panelBytes = format.panelBytes(columns: columns)
        let count = (rows + 15) / 16
        // 64 bytes more: vectors never read past a panel, and this is where a test would see what they read.
        var panels = [UInt8](repeating: 0, count: count * panelBytes)
        let rowBytes = format.rowBytes(columns: columns)
        source.withUnsafeBytes { source in
            panels.withUnsafeMutableBytes { panels in
                for panel in 0..<count {
                    let end = min(rows, 16 * (panel + 1))
                    Panels.pack(
                        format, rows: UnsafeRawBufferPointer(rebasing: source[16 * panel * rowBytes..<end * rowBytes]),
                        columns: columns,
                        into: UnsafeMutableRawBufferPointer(
                            rebasing: panels[panel * panelBytes..<(panel + 1) * panelBytes]))
                }
            }
        }
        self.panels = panels
    }

    private static func block(
        _ format: TensorFormat, _ contents: Contents, using generator: inout SeededGenerator
    ) -> [UInt8] {
        func half(_ bits: UInt16) -> [UInt8] { [UInt8(bits & 255), UInt8(bits >> 8)] }
        func bytes(_ count: Int) -> [UInt8] {
            switch contents {
            case .random:
                return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
            case .extreme:
                let byte: UInt8 = [0x00, 0x80, 0x7f, 0xff].randomElement(using: &generator) ?? 0
                return [UInt8](repeating: byte, count: count)
            }
        }
        func scale() -> [UInt8] {
            switch contents {
            case .random:
                // 2^-10 to 2^-2, either sign, any mantissa.
                let exponent = UInt16.random(in: 5...12, using: &generator)
                let rest = UInt16.random(in: 0...0x3ff, using: &generator)
                return half(UInt16.random(in: 0...1, using: &generator) << 15 | exponent << 10 | rest)
            case .extreme:
                // The largest, its negative, the smallest denormal, zero.
                return half([0x7bff, 0xfbff, 0x0001, 0x0000].randomElement(using: &generator) ?? 0)
            }
        }
        switch format {
        case .f32:
            let value =
                contents == .random ? generator.float(spread: 6) : Float(sign: .minus, exponent: 60, significand: 1)
            return withUnsafeBytes(of: value.bitPattern.littleEndian) { [UInt8]($0) }
        case .f16: return scale()
        case .bf16: return [UInt8((generator.float(spread: 6).bitPattern >> 16) & 255), 0x3d]
        case .q8_0: return scale() + bytes(32)
        case .q4_0: return scale() + bytes(16)
        case .q4_K: return scale() + scale() + bytes(12) + bytes(128)
        case .q5_K: return scale() + scale() + bytes(12) + bytes(32) + bytes(128)
        case .q6_K: return bytes(128) + bytes(64) + bytes(16) + scale()
        }
    }

    /// Row `index` as ModelStore's reference dequantises it.
    func values(row index: Int) -> [Float] {
        let rowBytes = format.rowBytes(columns: columns)
        return source.withUnsafeBytes {
            Dequantiser.row(
                format, UnsafeRawBufferPointer(rebasing: $0[index * rowBytes..<(index + 1) * rowBytes]),
                columns: columns)
        }
    }

    /// The product of this matrix with rows of activations, [row][output], padding included as zeros.
    func product(
        _ isa: tk_isa, _ activations: Activations, parts: Int = 1, panels range: Range<Int>? = nil,
        rows chosen: Range<Int>? = nil
    ) -> [Float] {
        let chosen = chosen ?? 0..<activations.count
        var out = [Float](repeating: 0, count: chosen.count * rows)
        let range = range ?? 0..<(rows + 15) / 16
        activations.prepared.withUnsafeBytes { prepared in
            guard let base = prepared.baseAddress else { return }
            tk_matmul(
                isa, format.kernel, panels, columns, rows, range.lowerBound, range.upperBound,
                base + chosen.lowerBound * activations.stride, activations.stride, chosen.count, parts, &out, rows)
        }
        return out
    }
}

/// Rows of activations, prepared for the products with one format.
struct Activations {
    let kind: tk_activation
    let columns: Int
    let count: Int
    let values: [Float]
    let encoded: [UInt8]
    let prepared: [UInt8]
    let stride: Int

    init(_ format: TensorFormat, columns: Int, values: [Float], isa: tk_isa = TK_ISA_PORTABLE) {
        let kind = tk_activation_for(format.kernel)
        let count = values.count / columns
        let encodedBytes = tk_encoded_row_bytes(kind, columns)
        var encoded = [UInt8](repeating: 0, count: count * encodedBytes)
        let stride = tk_prepared_row_bytes(kind, columns)
        var prepared = [UInt8](repeating: 0, count: count * stride)
        values.withUnsafeBufferPointer { values in
            encoded.withUnsafeMutableBytes { encoded in
                guard let source = values.baseAddress, let target = encoded.baseAddress else { return }
                for row in 0..<count {
                    tk_quantise(isa, kind, source + row * columns, columns, target + row * encodedBytes)
                }
            }
        }
        tk_prepare(isa, kind, encoded, encodedBytes, columns, count, &prepared)
        self.kind = kind
        self.columns = columns
        self.count = count
        self.stride = stride
        self.values = values
        self.encoded = encoded
        self.prepared = prepared
    }
}

/// The bits, so that comparisons tell -0 from 0 and take NaN for equal to itself.
func bits(_ values: [Float]) -> [UInt32] { values.map(\.bitPattern) }
