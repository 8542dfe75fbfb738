/// How the numbers of a tensor are stored: plain, or in ggml's blocks.
package enum TensorFormat: String, Codable, Sendable, CaseIterable {
    case f32, f16, bf16, q8_0, q4_0, q4_K, q5_K, q6_K

    /// The rows of a panel.
    package static let panelRows = 16
    /// The largest number of rows or columns of a tensor: products of two of them and a few bytes fit an `Int` with
    /// room.
    package static let maximumDimension = 1 << 28

    /// The values of a block; rows are whole blocks.
    package var blockSize: Int {
        switch self {
        case .f32, .f16, .bf16: 1
        case .q8_0, .q4_0: 32
        case .q4_K, .q5_K, .q6_K: 256
        }
    }

    /// The bytes of a block (ggml-common.h).
    package var bytesPerBlock: Int {
        switch self {
        case .f32: 4
        case .f16, .bf16: 2
        case .q8_0: 34
        case .q4_0: 18
        case .q4_K: 144
        case .q5_K: 176
        case .q6_K: 210
        }
    }

    /// Whether the values stand alone, without a scale.
    package var isPlain: Bool { blockSize == 1 }

    /// The bytes of a row; `columns` are whole blocks and at most ``maximumDimension``.
    package func rowBytes(columns: Int) -> Int {
        columns / blockSize * bytesPerBlock
    }

    /// The bytes of a panel of 16 rows, its padding included; `columns` as in ``rowBytes(columns:)``.
    package func panelBytes(columns: Int) -> Int {
        PanelLayout(self, columns: columns).panelBytes
    }

    /// The bytes of a matrix in a blob; both dimensions at most ``maximumDimension``.
    package func matrixBytes(rows: Int, columns: Int, panels: Bool) -> Int {
        panels
            ? (rows + Self.panelRows - 1) / Self.panelRows * panelBytes(columns: columns)
            : rows * rowBytes(columns: columns)
    }

    /// The form in which activations meet weights of this format.
    package var activation: ActivationFormat {
        switch self {
        case .f32, .f16, .bf16: .f32
        case .q8_0, .q4_0: .a8_32
        case .q4_K, .q5_K, .q6_K: .a8_256
        }
    }
}

/// How a row of activations is encoded, in memory and on the wire.
package enum ActivationFormat: UInt8, Sendable, CaseIterable {
    /// `columns` float32.
    case f32 = 0
    /// `columns` int8, then a float32 scale for each 32 of them.
    case a8_32 = 1
    /// `columns` int8, then a float32 scale for each 256 of them.
    case a8_256 = 2

    /// The values of a block; rows are whole blocks.
    package var blockSize: Int {
        switch self {
        case .f32: 1
        case .a8_32: 32
        case .a8_256: 256
        }
    }

    /// The bytes of an encoded row, a multiple of 4; `columns` are whole blocks.
    package func rowBytes(columns: Int) -> Int {
        switch self {
        case .f32: columns * 4
        case .a8_32, .a8_256: columns + columns / blockSize * 4
        }
    }
}
