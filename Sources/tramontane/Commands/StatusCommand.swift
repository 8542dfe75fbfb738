import ArgumentParser
import TramontaneClient
import Wire

/// Shows what a cluster consists of and does.
struct StatusCommand: Command {
    static let example = "tramontane status --cluster 127.0.0.1:7000"
    static let configuration = commandConfiguration(
        "status", "Shows a cluster's workers, what each holds, lanes and requests.")
    static let settings: [Setting] = [.option("cluster"), .flag("json")]

    @Option(
        help: ArgumentHelp("The coordinator's binary port.", valueName: "host:port"), transform: Address.remote)
    var cluster: Address

    @Flag(help: "Print one JSON object, with every worker's accounting.")
    var json = false

    @OptionGroup var settingsFile: SettingsFile

    func run() throws {
        let status = try Background.wait { [cluster] in
            let client = try await TramontaneClient.connect(
                host: cluster.host, port: cluster.port, name: "tramontane status")
            let status = try await client.statusReport()
            await client.close()
            return status
        }
        try StandardOutput.write(json ? StatusReport.json(status) : StatusReport.table(status))
    }
}

/// A status, for programs and for people.
enum StatusReport {
    /// The fields of `StatusResponse` under their names in the protocol.
    static func json(_ status: ProtoStatusResponse) -> String {
        JSONLine.object { object in
            object.string("coordinator", status.coordinator)
            object.string("version", status.version)
            object.bool("ready", status.ready)
            object.number("epoch", status.epoch)
            object.string("model", status.model)
            object.number("context_length", status.contextLength)
            object.objects("workers", status.workers) { write($1, to: &$0) }
            object.objects("lanes", status.lanes) { object, lane in
                object.number("index", lane.index)
                object.member("workers") { line in line.array(lane.workers) { $0.string($1) } }
                object.number("sequences", lane.sequences)
                object.number("pages_total", lane.pagesTotal)
                object.number("pages_used", lane.pagesUsed)
                object.number("steps", lane.steps)
                object.string("state", lane.state)
            }
            object.object("requests") { object in
                object.number("running", status.requests.running)
                object.number("waiting", status.requests.waiting)
                object.number("finished", status.requests.finished)
                object.number("failed", status.requests.failed)
                object.number("cancelled", status.requests.cancelled)
                object.number("queue_limit", status.requests.queueLimit)
            }
        }
    }

    private static func write(_ worker: ProtoWorkerStatus, to object: inout JSONLine.Object) {
        object.string("name", worker.name)
        object.number("incarnation", worker.incarnation)
        object.string("state", worker.state)
        object.string("data_address", worker.dataAddress)
        object.string("metrics_address", worker.metricsAddress)
        object.number("stage", worker.stage)
        object.number("first_layer", worker.firstLayer)
        object.number("layer_count", worker.layerCount)
        object.numbers("experts", worker.experts)
        object.number("weight_bytes", worker.weightBytes)
        object.number("threads", worker.threads)
        object.number("pages_total", worker.pagesTotal)
        object.number("pages_used", worker.pagesUsed)
        object.number("process_id", worker.processID)
        let accounting = worker.accounting
        object.object("accounting") { object in
            object.number("steps", accounting.steps)
            object.number("rows", accounting.rows)
            object.number("maximum_requests_in_step", accounting.maximumRequestsInStep)
            object.number("expert_products", accounting.expertProducts)
            object.number("expert_rows", accounting.expertRows)
            object.number("maximum_homes_in_product", accounting.maximumHomesInProduct)
            object.number("expert_rows_remote", accounting.expertRowsRemote)
            object.objects("links", accounting.links) { object, link in
                object.string("peer", link.peer)
                object.string("kind", link.kind)
                object.number("frames_sent", link.framesSent)
                object.number("bytes_sent", link.bytesSent)
                object.number("frames_received", link.framesReceived)
                object.number("bytes_received", link.bytesReceived)
            }
            object.member("mapped_blobs") { line in line.array(accounting.mappedBlobs) { $0.string($1) } }
            object.number("busy_nanoseconds", accounting.busyNanoseconds)
        }
    }

    static func table(_ status: ProtoStatusResponse) -> String {
        let requests = status.requests
        var text = """
            \(status.coordinator): \(status.model), \(status.ready ? "ready" : "not ready"), epoch \(status.epoch), \
            context \(status.contextLength)
            requests: \(requests.running) running, \(requests.waiting) waiting, \(requests.finished) finished, \
            \(requests.failed) failed, \(requests.cancelled) cancelled


            """
        text += TextTable.columns(
            [
                [
                    "WORKER", "STATE", "STAGE", "LAYERS", "EXPERTS", "WEIGHTS", "THREADS", "PAGES", "STEPS", "ADDRESS",
                    "METRICS", "PID",
                ]
            ]
                + status.workers.map { worker in
                    [
                        worker.name, worker.state, "\(worker.stage)",
                        layers(of: worker),
                        ranges(worker.experts.map(Int.init)), ByteCount.text(worker.weightBytes), "\(worker.threads)",
                        "\(worker.pagesUsed)/\(worker.pagesTotal)", "\(worker.accounting.steps)", worker.dataAddress,
                        worker.metricsAddress, "\(worker.processID)",
                    ]
                })
        text += "\n"
        text += TextTable.columns(
            [["LANE", "STATE", "WORKERS", "SEQUENCES", "PAGES", "STEPS"]]
                + status.lanes.map { lane in
                    [
                        "\(lane.index)", lane.state, lane.workers.joined(separator: " → "), "\(lane.sequences)",
                        "\(lane.pagesUsed)/\(lane.pagesTotal)", "\(lane.steps)",
                    ]
                })
        return text
    }

    /// `0-2`; numbers from the wire may be anything.
    private static func layers(of worker: ProtoWorkerStatus) -> String {
        let (first, count) = (Int(worker.firstLayer), Int(worker.layerCount))
        return count <= 1 ? (count == 1 ? "\(first)" : "") : "\(first)-\(first + count - 1)"
    }

    /// `0-3,6`.
    static func ranges(_ numbers: [Int]) -> String {
        var parts: [ClosedRange<Int>] = []
        for number in numbers.sorted() {
            if let last = parts.last, last.upperBound == number - 1 {
                parts[parts.count - 1] = last.lowerBound...number
            } else {
                parts.append(number...number)
            }
        }
        return parts.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
            .joined(separator: ",")
    }
}
