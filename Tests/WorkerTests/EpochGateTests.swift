import Testing
import Worker

@Suite struct EpochGateTests {
    @Test func oldFramesAreDroppedAndNewOnesWait() {
        var gate = EpochGate<String>()
        #expect(gate.admit("zero", epoch: 0, bytes: 1) == .stale)
        #expect(gate.admit("a", epoch: 2, bytes: 1) == .held)
        #expect(gate.admit("b", epoch: 3, bytes: 1) == .held)
        #expect(gate.admit("c", epoch: 2, bytes: 1) == .held)
        #expect(gate.activate(2) == ["a", "c"])
        #expect(gate.admit("d", epoch: 2, bytes: 1) == .pass)
        #expect(gate.admit("e", epoch: 1, bytes: 1) == .stale)
        gate.fence()
        #expect(gate.admit("f", epoch: 2, bytes: 1) == .stale)
        #expect(gate.activate(3) == ["b"])
        // A new coordinator counts from the beginning.
        #expect(gate.activate(1) == [])
        #expect(gate.admit("g", epoch: 1, bytes: 1) == .pass)
    }

    @Test func whatAGoneSenderLeftIsForgotten() {
        var gate = EpochGate<String>()
        #expect(gate.admit("gone", epoch: 2, bytes: EpochGate<String>.byteLimit) == .held)
        gate.drop { $0 == "gone" }
        #expect(gate.admit("here", epoch: 2, bytes: EpochGate<String>.byteLimit) == .held)
        #expect(gate.activate(2) == ["here"])
    }

    @Test func whatWaitsIsBounded() {
        var frames = EpochGate<Int>()
        for frame in 0..<EpochGate<Int>.frameLimit { #expect(frames.admit(frame, epoch: 1, bytes: 0) == .held) }
        #expect(frames.admit(-1, epoch: 1, bytes: 0) == .full)
        var bytes = EpochGate<Int>()
        #expect(bytes.admit(0, epoch: 1, bytes: EpochGate<Int>.byteLimit) == .held)
        #expect(bytes.admit(1, epoch: 1, bytes: 1) == .full)
        #expect(bytes.activate(1) == [0])
        #expect(bytes.admit(1, epoch: 2, bytes: EpochGate<Int>.byteLimit) == .held)
    }
}
