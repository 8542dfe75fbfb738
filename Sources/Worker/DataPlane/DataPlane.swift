import Engine
import Logging
import ModelStore
import NIOCore
import Transport
import Wire

/// What the data plane tells the control plane.
enum WorkerReport: Sendable {
    /// Whose fault it is that a shard is not ready.
    enum Blame: Sendable {
        /// The coordinator's: another assignment may do.
        case assignment
        /// This worker's files or memory: whatever it is assigned, somebody has to see to it first.
        case worker
    }

    /// The epoch's shard is loaded and everybody this worker sends to is connected.
    case shardReady(ProtoShardReady)
    /// The assignment cannot be carried out.
    case shardRefused(epoch: UInt64, Failure, Blame)
    case peerLost(ProtoPeerLost)
}

/// The data plane of a worker: owns the engine and all data connections, performs the actions of ``WorkerMachine``, and runs
/// one item of work between two looks at the sockets. Everything here happens on one event loop.
final class DataPlane {
    /// Where a frame came from.
    enum Source: Equatable {
        case coordinator
        case home(HomeID)
    }

    /// One epoch at work. Goes, with everything that belongs to it, when the next one comes.
    final class Epoch {
        var machine: WorkerMachine
        let engine: Engine
        var steps: [StepKey: StepBuffers] = [:]
        var requests: [RequestKey: RequestBuffers] = [:]
        var pace = Pace()
        /// The control plane has been told that the shard is ready.
        var isReady = false
        /// Results of the expert product at hand, before they go where they belong.
        let products: RowBuffer
        let logits: RowBuffer
        /// The rows of the expert products at hand.
        var gathered = GatheredRows()
        /// The expert products at hand; empty between items.
        var works: [ExpertWork] = []
        /// The routes of the layer at hand.
        var routes = RowRoutes()
        /// The rows whose logits are wanted, and what they gave.
        var wanted = WantedLogits()
        var output = OutputResult()
        var sampler = Sampler()
        /// Rows on their way to a host.
        var sending = SentRows()
        /// Empty between events.
        var actions: [WorkerAction] = []
        var spare = SpareMemory()

        init(machine: consuming WorkerMachine, engine: Engine) {
            self.machine = machine
            if engine.hasSmallExperts { self.machine.expertsTogether = engine.shape.experts }
            self.engine = engine
            products = RowBuffer(rows: 0, width: engine.shape.hidden)
            logits = RowBuffer(rows: 0, width: engine.shape.vocabulary)
        }
    }

    /// A shard on its way into memory.
    private struct Load {
        let number: Int
        let shard: ShardSpec
        let pages: Int
        /// The newest placement for which the shard is the right one.
        var view: PlacementView
    }

    /// A connection to a peer that this worker sends to.
    final class Link {
        let address: Address
        var connection: Connection?
        var backOff = BackOff(firstMilliseconds: 50, lastMilliseconds: 2_000)
        var attempts = 0
        var retry: Scheduled<Void>?

        init(address: Address) { self.address = address }
    }

    var eventLoop: any EventLoop { loop.eventLoop }
    let configuration: WorkerConfiguration
    let own: PeerID
    let accounting: WorkerAccounting
    let logger: Logger
    let report: @Sendable (WorkerReport) -> Void
    let loop: DataLoop

    var epoch: Epoch?
    /// The shard in memory; outlives epochs that need the same one.
    private var engine: Engine?
    private var load: Load?
    private var loads = 0
    var gate = EpochGate<(source: Source, frame: Frame)>()
    /// The one that was accepted last: a coordinator that came back replaces itself.
    var coordinator: Connection?
    var homes: [HomeID: Connection] = [:]
    var links: [PeerID: Link] = [:]
    private var nextHome: UInt64 = 0
    private var isClosed = false

    init(
        loop: DataLoop, configuration: WorkerConfiguration, own: PeerID, accounting: WorkerAccounting, logger: Logger,
        report: @escaping @Sendable (WorkerReport) -> Void
    ) {
        self.loop = loop
        self.configuration = configuration
        self.own = own
        self.accounting = accounting
        self.logger = logger
        self.report = report
        loop.work = { self.runItem() }
    }

    // MARK: Epochs

    /// Another placement is coming: what belongs to the present one is dropped.
    func fence() {
        gate.fence()
        epoch = nil
        let old = links
        links = [:]
        for link in old.values {
            link.retry?.cancel()
            link.connection?.close()
        }
    }

    /// The coordinator says what this worker holds from now on. A shard that is in memory already stays there.
    func assign(_ assignment: ProtoAssign, loader: ShardLoader) {
        guard !isClosed else { return }
        fence()
        let shape = configuration.manifest.shape
        do throws(Failure) {
            let view = try PlacementView(
                placement: assignment.placement, own: own, layerCount: shape.layers, expertCount: shape.experts)
            let shard = ShardSpec(
                layers: view.layers, experts: view.experts, embedding: view.isFirstStage, head: view.isLastStage)
            let pages = Int(assignment.pages)
            if let engine, engine.shard == shard, engine.pages == pages {
                activate(view, engine: engine)
                return
            }
            if let load, load.shard == shard, load.pages == pages {
                self.load?.view = view
                return
            }
            // The old shard goes before the new one comes, since there may not be memory for both.
            engine = nil
            loads += 1
            let number = loads
            load = Load(number: number, shard: shard, pages: pages, view: view)
            loader.load(shard, pages: pages, on: eventLoop) { [self] result in loaded(result, number: number) }
        } catch {
            load = nil
            loader.giveUp()
            refuse(assignment.placement.epoch, error, .assignment)
        }
    }

    private func loaded(_ result: Result<Engine, Failure>, number: Int) {
        // A load that another assignment has overtaken has nothing to say.
        guard let load, load.number == number, !isClosed else { return }
        self.load = nil
        switch result {
        case .success(let engine):
            self.engine = engine
            activate(load.view, engine: engine)
        case .failure(let failure):
            refuse(load.view.epoch, failure, .worker)
        }
    }

    private func refuse(_ epoch: UInt64, _ failure: Failure, _ blame: WorkerReport.Blame) {
        logger.error("the assignment cannot be carried out", metadata: ["reason": "\(failure)"])
        report(.shardRefused(epoch: epoch, failure, blame))
    }

    private func activate(_ view: PlacementView, engine: Engine) {
        let shape = engine.shape
        let bounds = WorkerBounds(
            pages: engine.pages, contextLength: shape.contextLength, vocabulary: shape.vocabulary,
            expertsUsed: shape.expertsUsed, hidden: shape.hidden, rowCredits: configuration.rowCredits)
        let epoch = Epoch(machine: WorkerMachine(view: view, bounds: bounds), engine: engine)
        self.epoch = epoch
        accounting.mapped(engine.mappedBlobs)
        accounting.placed(view, weightBytes: engine.weightBytes, pages: engine.pages)
        for (home, connection) in homes {
            epoch.machine.homeJoined(home, peer: PeerID(connection.peer))
        }
        for (peer, address) in view.outbound {
            links[peer] = Link(address: address)
            dial(peer)
        }
        reportIfReady()
        for (source, frame) in gate.activate(view.epoch) { take(frame, from: source) }
        scheduleItem()
    }

    /// Drops everything and closes every connection; nothing happens here afterwards.
    func close() {
        isClosed = true
        fence()
        engine = nil
        for connection in homes.values { connection.close() }
        coordinator?.close()
        loop.close()
    }

    private func reportIfReady() {
        guard let epoch, !epoch.isReady, links.values.allSatisfy({ $0.connection != nil }) else { return }
        epoch.isReady = true
        var ready = ProtoShardReady()
        ready.epoch = epoch.machine.view.epoch
        ready.weightBytes = UInt64(clamping: epoch.engine.weightBytes)
        ready.pages = UInt32(clamping: epoch.engine.pages)
        let view = epoch.machine.view
        logger.info(
            "shard ready",
            metadata: [
                "epoch": "\(view.epoch)", "layers": "\(view.layers)", "experts": "\(view.experts.sorted())",
                "weightBytes": "\(ready.weightBytes)", "pages": "\(ready.pages)", "kernels": "\(instructionSetName())",
            ])
        report(.shardReady(ready))
    }

    // MARK: Connections from others

    /// Takes a peer that dialled.
    func accept(_ connection: Connection) -> any ConnectionDelegate {
        guard connection.peer.role == .workerData else {
            accounting.opened(connection, peer: "coordinator")
            loop.add(connection)
            coordinator?.close(Failure(code: "connection_superseded", message: "a newer connection of the coordinator"))
            coordinator = connection
            gate.drop { $0.source == .coordinator }
            return InboundDelegate(plane: self, source: .coordinator)
        }
        nextHome += 1
        let home = HomeID(number: nextHome)
        accounting.opened(connection, peer: connection.peer.name)
        loop.add(connection)
        homes[home] = connection
        epoch?.machine.homeJoined(home, peer: PeerID(connection.peer))
        return InboundDelegate(plane: self, source: .home(home))
    }

    /// A frame from outside: dropped, held or taken by its epoch.
    func received(_ frame: Frame, from source: Source) {
        switch gate.admit((source, frame), epoch: frame.epoch, bytes: frame.payload.readableBytes) {
        case .pass:
            take(frame, from: source)
        case .stale:
            logger.debug("frame of an old epoch", metadata: ["kind": "\(frame.kind.name)", "epoch": "\(frame.epoch)"])
        case .held:
            break
        case .full:
            let failure = Failure(
                code: "epoch_unknown", message: "epoch \(frame.epoch) is not here yet, and too many frames wait for it")
            connection(of: source)?.close(failure)
        }
    }

    private func connection(of source: Source) -> Connection? {
        switch source {
        case .coordinator: coordinator
        case .home(let home): homes[home]
        }
    }

    private func take(_ frame: Frame, from source: Source) {
        guard let epoch else { return }
        do throws(Failure) {
            switch (frame.kind, source) {
            case (.step, .coordinator):
                var batch = epoch.spare.batch()
                try batch.read(frame.payload, in: frame.kind)
                tell(epoch) { $0.stepReceived(batch, into: &$1) }
            case (.experts, .home(let home)):
                try takeExperts(frame, from: home, epoch)
            case (.hidden, .home(let home)):
                let width = epoch.engine.shape.hidden
                let state = try HiddenState(payload: frame.payload, columns: width, spare: epoch.spare.batch())
                let bad = state.rows.withUnsafeReadableBytes { rowsNotFinite($0, width: width) }
                tell(epoch, rows: state.rows) { $0.hiddenReceived(state.step, notFinite: bad, from: home, into: &$1) }
            default:
                // The transport lets only the kinds of a connection's role through.
                break
            }
        } catch {
            connection(of: source)?.close(error)
        }
    }

    private func takeExperts(_ frame: Frame, from home: HomeID, _ epoch: Epoch) throws(Failure) {
        let shape = epoch.engine.shape
        let request = try ExpertRequest(
            payload: frame.payload, columns: shape.hidden, experts: shape.experts, spare: epoch.spare.assignments())
        let layer = Int(request.layer)
        let format =
            epoch.engine.expertInput.indices.contains(layer)
            ? RowFormat(rawValue: epoch.engine.expertInput[layer].rawValue) : nil
        tell(epoch, request: request) {
            $0.expertsReceived(request, correlation: frame.correlation, format: format, from: home, into: &$1)
        }
    }

    func closed(_ source: Source, _ connection: Connection) {
        accounting.closed(connection)
        loop.remove(connection)
        switch source {
        case .coordinator:
            guard coordinator === connection else { return }
            coordinator = nil
            gate.drop { $0.source == source }
        case .home(let home):
            homes[home] = nil
            gate.drop { $0.source == source }
            if let epoch { tell(epoch) { $0.homeLost(home, into: &$1) } }
        }
    }

    // MARK: Connections to others

    private func dial(_ peer: PeerID) {
        guard let link = links[peer], link.connection == nil, !isClosed else { return }
        link.retry = nil
        link.attempts += 1
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        Connector.dial(
            host: link.address.host, port: link.address.port, on: eventLoop, identity: identity,
            makeDelegate: { _ in LinkDelegate(plane: bound.value, peer: peer) }
        ).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let connection):
                self.linked(peer, link, connection)
            case .failure(let error):
                guard self.links[peer] === link else { return }
                let failure = error as? Failure ?? Failure(code: "connect_failed", message: "\(error)")
                // The listeners of all members stand before a placement names them, so this is no matter of patience.
                if link.attempts == 3 { self.reportLost(peer, failure) }
                self.redial(peer)
            }
        }
    }

    private func linked(_ peer: PeerID, _ link: Link, _ connection: Connection) {
        guard links[peer] === link, let epoch else {
            connection.close()
            return
        }
        guard PeerID(connection.peer) == peer else {
            let failure = Failure(
                code: "peer_identity", message: "\(PeerID(connection.peer)) answers where \(peer) should be")
            connection.close(failure)
            reportLost(peer, failure)
            redial(peer)
            return
        }
        accounting.opened(connection, peer: peer.name)
        loop.add(connection)
        link.connection = connection
        link.attempts = 0
        link.backOff.reset()
        epoch.machine.linkUp(peer, credits: Int(connection.peer.rowCredits))
        reportIfReady()
    }

    private func redial(_ peer: PeerID) {
        guard let link = links[peer], !isClosed else { return }
        var generator = SystemRandomNumberGenerator()
        let milliseconds = Int64(link.backOff.next(using: &generator))
        link.retry = eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) { [weak self] in
            self?.dial(peer)
        }
    }

    func receivedResults(_ frame: Frame, from peer: PeerID, on connection: Connection) {
        guard let epoch, links[peer]?.connection === connection, frame.epoch == epoch.machine.view.epoch else { return }
        do throws(Failure) {
            let reply = try ExpertReply(payload: frame.payload, columns: epoch.engine.shape.hidden)
            let bad = reply.rows.withUnsafeReadableBytes {
                rowsNotFinite($0, width: epoch.engine.shape.hidden)
            }
            tell(epoch, rows: reply.rows) {
                $0.resultsReceived(reply, correlation: frame.correlation, notFinite: bad, from: peer, into: &$1)
            }
        } catch {
            connection.close(error)
        }
    }

    func linkClosed(_ peer: PeerID, _ reason: Failure?, _ connection: Connection) {
        accounting.closed(connection)
        loop.remove(connection)
        // Links of an older epoch are closed by this side and mean nothing any more.
        guard let link = links[peer], link.connection === connection, let epoch else { return }
        link.connection = nil
        let failure = Failure(
            code: "peer_lost", message: "worker '\(peer.name)' was lost: \(reason?.message ?? "closed here")")
        // Without a coordinator nobody waits for rows: the cluster is being stopped, or comes anew.
        logger.log(
            level: coordinator == nil ? .info : .warning, "lost a peer",
            metadata: ["peer": "\(peer.name)", "reason": "\(failure.message)"])
        reportLost(peer, failure)
        tell(epoch) { $0.linkLost(peer, failure, into: &$1) }
        redial(peer)
    }

    private func reportLost(_ peer: PeerID, _ failure: Failure) {
        var lost = ProtoPeerLost()
        lost.name = peer.name
        lost.incarnation = peer.incarnation
        lost.failure = ProtoFailure(failure)
        report(.peerLost(lost))
    }

    private var identity: LocalIdentity {
        LocalIdentity(
            role: .workerData, name: own.name, incarnation: own.incarnation,
            numericsVersion: configuration.numericsVersion,
            manifestDigest: configuration.manifest.digest, rowCredits: UInt32(clamping: configuration.rowCredits))
    }

    // MARK: Turns of the loop

    /// What has arrived may have made work: it is done when everything that has arrived is read.
    func scheduleItem() {
        guard !loop.isRunning, let epoch, epoch.machine.hasItem else { return }
        loop.schedule()
    }

    /// Computes the next item and writes what it made.
    private func runItem() -> DataLoop.Work {
        guard let epoch, let item = epoch.machine.nextItem() else { return .none }
        let start = NIODeadline.now()
        run(item, epoch)
        loop.flush()
        accounting.itemFinished(
            item, nanoseconds: (NIODeadline.now() - start).nanoseconds, queuedItems: epoch.machine.queuedItems)
        return epoch.machine.hasItem ? .more : .last
    }
}

extension PeerID {
    init(_ peer: PeerIdentity) {
        self.init(name: peer.name, incarnation: peer.incarnation)
    }
}

/// A connection that a home or the coordinator dialled.
private final class InboundDelegate: ConnectionDelegate {
    private let plane: DataPlane
    private let source: DataPlane.Source

    init(plane: DataPlane, source: DataPlane.Source) {
        self.plane = plane
        self.source = source
    }

    func received(_ frame: Frame, on connection: Connection) { plane.received(frame, from: source) }
    func readComplete(on connection: Connection) { plane.scheduleItem() }

    func closed(_ reason: Failure?, on connection: Connection) {
        // Sending may end a connection; what follows from that must not happen in the middle of the sender's work.
        connection.eventLoop.assumeIsolated().execute { [plane, source] in plane.closed(source, connection) }
    }
}

/// A connection that this worker dialled.
private final class LinkDelegate: ConnectionDelegate {
    private let plane: DataPlane
    private let peer: PeerID

    init(plane: DataPlane, peer: PeerID) {
        self.plane = plane
        self.peer = peer
    }

    func received(_ frame: Frame, on connection: Connection) {
        plane.receivedResults(frame, from: peer, on: connection)
    }

    func readComplete(on connection: Connection) { plane.scheduleItem() }

    func closed(_ reason: Failure?, on connection: Connection) {
        connection.eventLoop.assumeIsolated().execute { [plane, peer] in
            plane.linkClosed(peer, reason, connection)
        }
    }
}
