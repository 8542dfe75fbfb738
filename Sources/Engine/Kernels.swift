import CKernels
import ModelStore
import Synchronization

/// The instruction set of this process's kernels.
enum Kernels {
    static let isa = InstructionSet.settle()
}

/// The name of the instruction set in use: "portable", "avx2" and so on; for people.
package func instructionSetName() -> String {
    String(cString: tk_isa_name(Kernels.isa))
}

/// An instruction set that the kernels are written for. It changes a result's time and no bit of it.
package struct InstructionSet: Sendable, Equatable {
    let isa: tk_isa

    /// All that the kernels are written for, the plainest first.
    package static let all = (0..<TK_ISA_COUNT.rawValue).map { InstructionSet(isa: tk_isa(rawValue: $0)) }

    /// The one that this process computes with: what ``choose(_:)`` was told, or the fastest that the machine has.
    package static var current: InstructionSet { InstructionSet(isa: Kernels.isa) }

    init(isa: tk_isa) {
        self.isa = isa
    }

    /// The one of this name, or nil.
    package init?(name: String) {
        guard let found = Self.all.first(where: { $0.name == name }) else { return nil }
        self = found
    }

    /// "portable", "avx2" and so on.
    package var name: String { String(cString: tk_isa_name(isa)) }

    /// Whether this build and this machine have it.
    package var isAvailable: Bool { tk_isa_available(isa) }

    /// Makes this process compute with `set`. Before the first computation only: a running engine's does not change.
    ///
    /// - Throws: `EngineError` `isa_unavailable`, or `isa_settled` where the process computes with another one already.
    package static func choose(_ set: InstructionSet) throws {
        guard set.isAvailable else {
            let names = all.filter(\.isAvailable).map(\.name).joined(separator: ", ")
            throw EngineError(
                code: "isa_unavailable", message: "this machine does not have \(set.name); it has \(names)")
        }
        try choice.withLock { choice in
            if let settled = choice.settled, settled != set {
                throw EngineError(
                    code: "isa_settled", message: "this process computes with \(settled.name) already")
            }
            choice.wanted = set
        }
    }

    private static let choice = Mutex<(wanted: InstructionSet?, settled: InstructionSet?)>((nil, nil))

    /// What the process computes with from now on.
    fileprivate static func settle() -> tk_isa {
        choice.withLock { choice in
            let set = choice.wanted ?? InstructionSet(isa: tk_isa_best())
            choice.settled = set
            return set.isa
        }
    }
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
