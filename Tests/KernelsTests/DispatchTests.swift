import CKernels
import Foundation
import Testing

@Suite("Instruction sets")
struct DispatchTests {
    @Test("Portable is always there, the best is available, names are distinct")
    func sets() throws {
        #expect(tk_isa_available(TK_ISA_PORTABLE))
        #expect(tk_isa_available(tk_isa_best()))
        #expect(Set(availableSets.map(name)).count == availableSets.count)
        #expect(!tk_isa_available(TK_ISA_COUNT))
        #expect(name(TK_ISA_COUNT) == "unknown")
        // The wide form is faster on AMD's processors alone.
        let isAMD = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8).contains("AuthenticAMD")
        #expect(availableSets.last { isAMD || $0 != TK_ISA_AVX512VNNI_WIDE } == tk_isa_best())
    }
}
