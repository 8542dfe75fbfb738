import Coordinator
import CoreMetrics
import Foundation
import Glibc
import Prometheus

/// What Prometheus's own libraries tell of the process that they live in, under the same names.
enum ProcessMetrics {
    static func add(to registry: PrometheusRegistry, role: String, model: String) {
        registry.gauge(
            "tramontane_build_info", "1; the labels say what this process is.",
            [("version", Coordinator.version), ("role", role), ("model", model)]
        ).set(1)
        registry.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")
            .set(Date().timeIntervalSince1970)
        func sample(
            _ kind: MetricDescription.Kind, _ name: String, _ help: String, _ read: @escaping @Sendable () -> Double?
        ) {
            registry.sample(MetricDescription(kind, name, help)) { read().map { [(labels: [], value: $0)] } ?? [] }
        }
        sample(.counter, "process_cpu_seconds_total", "Processor time, of the user and of the system.") {
            var usage = rusage()
            guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return nil }
            return seconds(usage.ru_utime) + seconds(usage.ru_stime)
        }
        sample(.gauge, "process_resident_memory_bytes", "Memory that is resident, mapped weights included.") {
            guard let statm = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return nil }
            let fields = statm.split(separator: " ")
            return fields.count > 1 ? Double(fields[1]).map { $0 * Double(sysconf(Int32(_SC_PAGESIZE))) } : nil
        }
        sample(.gauge, "process_open_fds", "Descriptors that are open.") {
            (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")).map { Double($0.count) }
        }
        sample(.gauge, "process_max_fds", "Descriptors that may be open.") {
            var limit = rlimit()
            return getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 ? Double(limit.rlim_cur) : nil
        }
    }

    private static func seconds(_ time: timeval) -> Double {
        Double(time.tv_sec) + Double(time.tv_usec) / 1e6
    }
}
