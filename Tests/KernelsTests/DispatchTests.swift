import CKernels
import Testing

@Suite("Instruction sets")
struct DispatchTests {
    @Test("Portable is always there, the best is available, names are distinct")
    func sets() {
        #expect(tk_isa_available(TK_ISA_PORTABLE))
        #expect(tk_isa_available(tk_isa_best()))
        #expect(Set(availableSets.map(name)).count == availableSets.count)
        #expect(!tk_isa_available(TK_ISA_COUNT))
        #expect(name(TK_ISA_COUNT) == "unknown")
        #expect(availableSets.last == tk_isa_best())
    }
}
