import Engine
import Glibc
import Logging
import NIOCore
import NIOPosix
import Synchronization
import Transport
import Wire
import Worker

/// What it costs to send rows to another process and to get rows back: raw blocking sockets, and the frames that workers
/// exchange, both over loopback with as many bytes.
///
/// Where the two ends run decides as much as what they do: a processor that sleeps takes tens of microseconds to wake, and
/// bytes that another processor wrote come from its caches. So both are measured with both ends on one processor, where only
/// the work counts, and with each end on its own; there also as in a step of a large model, where each end reads so much
/// before it sends that nothing of the way is in its caches any more, while the other one sleeps.
struct HopBench {
    /// A row of 6,144 float32 is 24,576 bytes; both ways carry this much.
    static let bytes = 26_000
    private static let warmUp = 200
    private static let rounds = 8
    /// What an end reads before it sends, where caches are to be cold: twice what they hold, and at least 64 MiB.
    static let sweptBytes = max(64 << 20, 2 * min(MachineDescription().largestCacheBytes, 1 << 40))
    /// With cold caches a trip takes hundreds of times as long.
    private static let tripsForEachSwept = 20

    /// Medians of the round trips, in microseconds.
    struct Trip {
        let raw: Double
        let frames: Double
    }

    let oneProcessor: Trip
    /// Where the machine lets this process have two.
    let twoProcessors: Trip?
    /// The same with cold caches, less the time of the reading that makes them so.
    let cold: Trip?
    let sweptBytes: Int
    let trips: Int
    /// What a layer takes longer when its experts are on another worker; where a model was named.
    var remoteExpertMicroseconds: Double?

    /// - Parameter sweptBytes: what each end reads to make its caches cold.
    init(trips: Int, sweptBytes: Int = Self.sweptBytes) throws {
        self.trips = trips
        self.sweptBytes = sweptBytes
        let processors = NUMANodes().usable.flatMap(\.processors)
        // The raw sockets' near end is this thread.
        defer { _ = runOnly(onProcessors: processors) }
        let (one, two) = (processors[0], processors.count > 1 ? processors[1] : nil)
        oneProcessor = try Self.trip(Way(near: one, far: one), trips: trips)
        twoProcessors = try two.map { try Self.trip(Way(near: one, far: $0), trips: trips) }
        cold = try two.map {
            try Self.trip(
                Way(near: one, far: $0, sweptBytes: sweptBytes), trips: max(trips / Self.tripsForEachSwept, 1))
        }
    }

    private static func trip(_ way: Way, trips: Int) throws -> Trip {
        var raw: [Double] = []
        var frames: [Double] = []
        // In turns, since a processor's speed changes from one tenth of a second to the next.
        for round in 0..<rounds {
            let trips = max(trips * (round + 1) / rounds - trips * round / rounds, 1)
            let warmUp = way.sweptBytes > 0 ? 2 : warmUp
            raw += try RawEcho.times(way, bytes: bytes, trips: trips, warmUp: warmUp)
            frames += try Background.wait {
                try await FrameEcho.times(way, bytes: bytes, trips: trips, warmUp: warmUp)
            }
        }
        return Trip(raw: Median.of(raw), frames: Median.of(frames))
    }

    /// How the ends are.
    fileprivate struct Way: Sendable {
        /// The processor of the end that asks.
        var near: Int
        /// That of the end that answers.
        var far: Int
        /// What each end reads before it sends.
        var sweptBytes = 0
    }

    /// Reads memory, each end its own, so that nothing else is in the caches.
    fileprivate struct Sweep {
        private let memory: MachineRates?

        init(_ way: Way) throws {
            memory = way.sweptBytes > 0 ? try MachineRates(threads: 1, bytes: way.sweptBytes) : nil
        }

        /// - Returns: what it took, in microseconds.
        func callAsFunction() -> Double {
            guard let memory else { return 0 }
            let start = ContinuousClock.now
            _ = memory.readBytesPerSecond()
            return (ContinuousClock.now - start).microseconds
        }
    }

    /// What the far end's sweeps took, which are no part of a trip.
    fileprivate final class FarSweeps: Sendable {
        private let times = Mutex<[Double]>([])

        func add(_ microseconds: Double) { times.withLock { $0.append(microseconds) } }

        func taken(from trips: [Double]) -> [Double] { times.withLock { zip(trips, $0).map { $0 - $1 } } }
    }

    /// Where the system does not let a thread move, it stays where it is.
    fileprivate static func move(to processor: Int) { _ = runOnly(onProcessors: [processor]) }

    func write(to object: inout JSONLine.Object) {
        object.number("bytes_each_way", Self.bytes)
        object.number("trips", trips)
        object.rounded("raw_sockets_microseconds", oneProcessor.raw)
        object.rounded("data_plane_frames_microseconds", oneProcessor.frames)
        object.rounded("frames_over_raw", oneProcessor.frames / oneProcessor.raw)
        if let twoProcessors {
            object.rounded("two_processors_raw_sockets_microseconds", twoProcessors.raw)
            object.rounded("two_processors_data_plane_frames_microseconds", twoProcessors.frames)
            object.rounded("two_processors_frames_over_raw", twoProcessors.frames / twoProcessors.raw)
        }
        if let cold {
            object.number("cold_bytes_read_before", sweptBytes)
            object.rounded("cold_raw_sockets_microseconds", cold.raw)
            object.rounded("cold_data_plane_frames_microseconds", cold.frames)
            object.rounded("cold_frames_over_raw", cold.frames / cold.raw)
        }
        if let remoteExpertMicroseconds {
            object.rounded("remote_expert_adds_microseconds", remoteExpertMicroseconds)
            if let cold { object.rounded("remote_expert_over_cold_raw", remoteExpertMicroseconds / cold.raw) }
        }
    }

    var table: String {
        var rows = [["LOOPBACK, \(Self.bytes) BYTES EACH WAY", "MICROSECONDS", "OF RAW"]]
        for (place, trip) in [
            ("one processor", oneProcessor), ("two processors", twoProcessors), ("two, cold caches", cold),
        ] {
            guard let trip else { continue }
            rows.append(["raw blocking sockets, \(place)", Figure.fixed(trip.raw, 1), "1.00"])
            rows.append([
                "data-plane frames, \(place)", Figure.fixed(trip.frames, 1), Figure.fixed(trip.frames / trip.raw, 2),
            ])
        }
        if let remoteExpertMicroseconds {
            rows.append([
                "a layer's experts on another worker", Figure.fixed(remoteExpertMicroseconds, 1),
                cold.map { Figure.fixed(remoteExpertMicroseconds / $0.raw, 2) } ?? "",
            ])
        }
        let table = TextTable.columns(rows)
        guard let remoteExpertMicroseconds, remoteExpertMicroseconds <= 0 else { return table }
        return table
            + "a layer took no longer with its experts on another worker: other work made the difference; try more --repeat\n"
    }
}

extension Duration {
    fileprivate var microseconds: Double { self / .microseconds(1) }
}

/// Two threads and a connection with nothing between them and the kernel.
private enum RawEcho {
    /// The calling thread is the near end, and is moved to its processor.
    static func times(_ way: HopBench.Way, bytes: Int, trips: Int, warmUp: Int) throws -> [Double] {
        HopBench.move(to: way.near)
        let sweep = try HopBench.Sweep(way)
        let farSweep = Mutex(try HopBench.Sweep(way))
        let farSweeps = HopBench.FarSweeps()
        let (near, far) = try connectedPair()
        defer { close(near) }
        let rounds = warmUp + trips
        let partner: Thread
        do {
            partner = try Thread {
                HopBench.move(to: way.far)
                echo(far, bytes: bytes, rounds: rounds) { farSweeps.add(farSweep.withLock { $0() }) }
            }
        } catch {
            close(far)
            throw error
        }
        defer { partner.join() }
        // Closed before the other thread is waited for, so that it ends whatever has happened here.
        defer { shutdown(near, Int32(SHUT_RDWR)) }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
        defer { buffer.deallocate() }
        buffer.initializeMemory(as: UInt8.self, repeating: 1)
        var times: [Double] = []
        for _ in 0..<rounds {
            _ = sweep()
            let start = ContinuousClock.now
            guard transfer(buffer, { write(near, $0, $1) }), transfer(buffer, { read(near, $0, $1) }) else {
                throw CommandError.failure("loopback: \(String(cString: strerror(errno)))")
            }
            times.append((ContinuousClock.now - start).microseconds)
        }
        return Array(farSweeps.taken(from: times).dropFirst(warmUp))
    }

    private static func echo(_ descriptor: CInt, bytes: Int, rounds: Int, sweep: () -> Void) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
        defer {
            buffer.deallocate()
            close(descriptor)
        }
        for _ in 0..<rounds {
            guard transfer(buffer, { read(descriptor, $0, $1) }) else { return }
            sweep()
            guard transfer(buffer, { write(descriptor, $0, $1) }) else { return }
        }
    }

    /// Calls `move` until the buffer was read or written from beginning to end.
    private static func transfer(
        _ buffer: UnsafeMutableRawBufferPointer, _ move: (UnsafeMutableRawPointer?, Int) -> Int
    ) -> Bool {
        var rest = buffer
        while !rest.isEmpty {
            let count = move(rest.baseAddress, rest.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = UnsafeMutableRawBufferPointer(rebasing: rest[count...])
        }
        return true
    }

    /// Both ends of a TCP connection over loopback.
    private static func connectedPair() throws -> (CInt, CInt) {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listener) }
        let near = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let far = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address -> CInt in
                guard listener >= 0, near >= 0, bind(listener, address, length) == 0, listen(listener, 1) == 0,
                    getsockname(listener, address, &length) == 0, connect(near, address, length) == 0
                else { return -1 }
                return accept(listener, nil, nil)
            }
        }
        var on: CInt = 1
        let size = socklen_t(MemoryLayout<CInt>.size)
        guard far >= 0, setsockopt(near, Int32(IPPROTO_TCP), TCP_NODELAY, &on, size) == 0,
            setsockopt(far, Int32(IPPROTO_TCP), TCP_NODELAY, &on, size) == 0
        else {
            let reason = String(cString: strerror(errno))
            if near >= 0 { close(near) }
            if far >= 0 { close(far) }
            throw CommandError.failure("loopback: \(reason)")
        }
        return (near, far)
    }

    /// A thread of its own: what blocks must not block one of Swift's pool.
    private final class Thread {
        private var handle = pthread_t()

        init(_ body: @escaping @Sendable () -> Void) throws {
            let argument = Unmanaged.passRetained(Body(body))
            let status = pthread_create(
                &handle, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
                    return nil
                }, argument.toOpaque())
            guard status == 0 else {
                argument.release()
                throw CommandError.failure("the system starts no thread: \(String(cString: strerror(status)))")
            }
        }

        func join() { pthread_join(handle, nil) }

        private final class Body: Sendable {
            let run: @Sendable () -> Void
            init(_ run: @escaping @Sendable () -> Void) { self.run = run }
        }
    }
}

/// Two event loops and a connection as workers have them: `experts` frames one way, `expertResults` back.
private enum FrameEcho {
    static func times(_ way: HopBench.Way, bytes: Int, trips: Int, warmUp: Int) async throws -> [Double] {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let near = group.next()
        let far = group.next()
        near.execute { HopBench.move(to: way.near) }
        far.execute { HopBench.move(to: way.far) }
        let result: Result<[Double], any Error>
        do {
            result = .success(try await times(way, bytes: bytes, rounds: warmUp + trips, near: near, far: far))
        } catch {
            result = .failure(error)
        }
        try await group.shutdownGracefully()
        return Array(try result.get().dropFirst(warmUp))
    }

    private static func times(
        _ way: HopBench.Way, bytes: Int, rounds: Int, near: any EventLoop, far: any EventLoop
    ) async throws -> [Double] {
        func identity(_ name: String) -> LocalIdentity {
            LocalIdentity(
                role: .workerData, name: name, incarnation: 1, numericsVersion: 1,
                manifestDigest: [UInt8](repeating: 0, count: 32), rowCredits: 1)
        }
        let nearLoop = try await DataLoop.open(on: near).get()
        let farLoop = try await DataLoop.open(on: far).get()
        let nearSweep = try await near.submit { NIOLoopBound(try HopBench.Sweep(way), eventLoop: near) }.get()
        let farSweep = try await far.submit { NIOLoopBound(try HopBench.Sweep(way), eventLoop: far) }.get()
        let farSweeps = HopBench.FarSweeps()
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: far, childLoop: far, identity: identity("far"),
            roles: [.workerData], logger: Logger(label: "tramontane.bench") { _ in SwiftLogNoOpLogHandler() },
            accept: { connection throws(Failure) in
                Far(connection: connection, loop: farLoop.value, sweep: farSweep.value, sweeps: farSweeps)
            })
        let done = near.makePromise(of: [Double].self)
        let connection = try await Connector.connect(
            host: "127.0.0.1", port: listener.port, on: near, identity: identity("near"),
            makeDelegate: {
                Near(
                    connection: $0, loop: nearLoop.value, sweep: nearSweep.value, bytes: bytes, rounds: rounds,
                    done: done)
            })
        let result: Result<[Double], any Error>
        do {
            result = .success(farSweeps.taken(from: try await done.futureResult.get()))
        } catch {
            result = .failure(error)
        }
        connection.close()
        await listener.close()
        try await near.submit { nearLoop.value.close() }.get()
        try await far.submit { farLoop.value.close() }.get()
        return try result.get()
    }

    /// Reads, writes and waits as a worker's data plane does.
    private class End {
        private let loop: DataLoop
        let sweep: HopBench.Sweep
        private var isAnswering = false

        init(connection: Connection, loop: DataLoop, sweep: HopBench.Sweep) {
            self.loop = loop
            self.sweep = sweep
            loop.add(connection)
            loop.work = {
                defer { self.isAnswering = false }
                return self.isAnswering ? .last : .none
            }
        }

        /// Every frame but the last one is answered.
        func readComplete(on connection: Connection) {
            isAnswering = true
            loop.schedule()
        }

        func closed(_ reason: Failure?, on connection: Connection) { loop.remove(connection) }
    }

    /// Answers every request with as many bytes.
    private final class Far: End, ConnectionDelegate {
        private let sweeps: HopBench.FarSweeps

        init(connection: Connection, loop: DataLoop, sweep: HopBench.Sweep, sweeps: HopBench.FarSweeps) {
            self.sweeps = sweeps
            super.init(connection: connection, loop: loop, sweep: sweep)
        }

        func received(_ frame: Frame, on connection: Connection) {
            sweeps.add(sweep())
            frame.payload.withUnsafeReadableBytes {
                connection.send(.expertResults, correlation: frame.correlation, body: $0) { _ in }
            }
        }
    }

    /// Sends a request as soon as the last one's answer is there.
    private final class Near: End, ConnectionDelegate {
        private let payload: ByteBuffer
        private let rounds: Int
        private let done: EventLoopPromise<[Double]>
        private var times: [Double] = []
        private var start = ContinuousClock.now

        init(
            connection: Connection, loop: DataLoop, sweep: HopBench.Sweep, bytes: Int, rounds: Int,
            done: EventLoopPromise<[Double]>
        ) {
            payload = ByteBuffer(repeating: 1, count: bytes)
            self.rounds = rounds
            self.done = done
            super.init(connection: connection, loop: loop, sweep: sweep)
            times.reserveCapacity(rounds)
            send(on: connection)
        }

        private func send(on connection: Connection) {
            _ = sweep()
            start = ContinuousClock.now
            payload.withUnsafeReadableBytes {
                connection.send(.experts, correlation: UInt64(times.count), body: $0) { _ in }
            }
        }

        func received(_ frame: Frame, on connection: Connection) {
            times.append((ContinuousClock.now - start).microseconds)
            if times.count < rounds {
                send(on: connection)
            } else if times.count == rounds {
                done.succeed(times)
            }
        }

        override func closed(_ reason: Failure?, on connection: Connection) {
            super.closed(reason, on: connection)
            guard times.count < rounds else { return }
            done.fail(reason ?? Failure(code: "connection_closed", message: "the connection was closed"))
        }
    }
}
