import Testing
import Wire

@Suite struct NumericsVersionTests {
    @Test func text() {
        #expect(NumericsVersion.text(2) == "2 with native")
        #expect(NumericsVersion.text(2 | NumericsVersion.openBLAS) == "2 with openblas")
    }
}
