import CKernels
import ModelStore

/// The instruction set of this process's kernels.
enum Kernels {
    static let isa = tk_isa_best()
}

/// The name of the instruction set in use: "portable", "avx2" and so on; for people.
package func instructionSetName() -> String {
    String(cString: tk_isa_name(Kernels.isa))
}

/// The version of the order of floating-point operations that this engine follows.
package let engineNumericsVersion = Int(TK_NUMERICS_VERSION)

extension TensorFormat {
    var kernelFormat: tk_format {
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

extension ActivationFormat {
    var kernelActivation: tk_activation {
        switch self {
        case .f32: TK_ACTIVATION_F32
        case .a8_32: TK_ACTIVATION_A8_32
        case .a8_256: TK_ACTIVATION_A8_256
        }
    }
}
