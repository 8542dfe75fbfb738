/// The versions of the canonical order of floating-point operations that hello, welcome and register name.
///
/// The low 31 bits are the manifest's version, which the native kernels keep.
package enum NumericsVersion {
    /// Set where matrix products are OpenBLAS's: their bits are not the native kernels' and change with the number of
    /// rows. So the two never serve one model together.
    package static let openBLAS: UInt32 = 0x8000_0000

    /// For people: `1 with native`, or `1 with openblas`, as `--compute` has them.
    package static func text(_ version: UInt32) -> String {
        version & openBLAS == 0 ? "\(version) with native" : "\(version & ~openBLAS) with openblas"
    }
}
