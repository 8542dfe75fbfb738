import CKernels

/// Cosines and sines of the rotary embedding, made by the kernels' own functions, in blocks of positions as they are met.
final class RotaryTable {
    private let theta: Double
    private let headDimension: Int
    private var blocks: [UnsafeMutablePointer<Float>?]

    private static let blockPositions = 128

    /// - Parameter positions: one past the last position that will be asked for.
    init(theta: Float, headDimension: Int, positions: Int) {
        self.theta = Double(theta)
        self.headDimension = headDimension
        blocks = Array(repeating: nil, count: (positions + Self.blockPositions - 1) / Self.blockPositions)
    }

    deinit {
        for block in blocks { block?.deallocate() }
    }

    /// `headDimension / 2` cosines and as many sines of a position's angles.
    func angles(position: Int) -> (cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>) {
        let (index, offset) = position.quotientAndRemainder(dividingBy: Self.blockPositions)
        let half = headDimension / 2
        let floats = Self.blockPositions * half
        let block: UnsafeMutablePointer<Float>
        if let made = blocks[index] {
            block = made
        } else {
            block = .allocate(capacity: 2 * floats)
            tk_rotary_table(
                theta, headDimension, index * Self.blockPositions, Self.blockPositions, block, block + floats)
            blocks[index] = block
        }
        return (UnsafePointer(block + offset * half), UnsafePointer(block + floats + offset * half))
    }
}
