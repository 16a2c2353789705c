internal import Glibc

/// The process_* metrics that every Prometheus dashboard expects.
enum ProcessMetrics {
    /// What the kernel says now.
    ///
    /// A value that cannot be read (no /proc) is left out.
    @Sendable static func samples() -> [PrometheusRegistry.Sample] {
        var samples: [PrometheusRegistry.Sample] = []
        if let cpu = seconds(of: CLOCK_PROCESS_CPUTIME_ID) {
            samples.append(.init(Names.Metric.processCPU, cpu))
        }
        if let text = contents(of: "/proc/self/stat"), let stat = Stat(parsing: text) {
            let page = Double(sysconf(Int32(_SC_PAGESIZE)))
            samples.append(.init(Names.Metric.processResidentMemory, stat.residentPages * page))
            samples.append(.init(Names.Metric.processVirtualMemory, stat.virtualBytes))
            samples.append(.init(Names.Metric.processThreads, stat.threads))
        }
        if let startTime { samples.append(.init(Names.Metric.processStartTime, startTime)) }
        if let count = openDescriptors() { samples.append(.init(Names.Metric.processOpenFDs, Double(count))) }
        var limit = rlimit()
        if unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 {
            samples.append(.init(Names.Metric.processMaxFDs, Double(limit.rlim_cur)))
        }
        return samples
    }

    /// The fields of /proc/self/stat that are reported.
    struct Stat: Equatable {
        let threads: Double
        let startTicks: Double
        let virtualBytes: Double
        let residentPages: Double

        /// The command name, in parentheses, may itself contain blanks and parentheses: fields count from the last one.
        init?(parsing text: String) {
            guard let end = text.lastIndex(of: ")") else { return nil }
            let fields = text[text.index(after: end)...].split(whereSeparator: \.isWhitespace)
            guard fields.count > 21, let threads = Double(fields[17]), let start = Double(fields[19]),
                let virtual = Double(fields[20]), let resident = Double(fields[21])
            else { return nil }
            self.threads = threads
            startTicks = start
            virtualBytes = virtual
            residentPages = resident
        }
    }

    /// Worked out once, so that it stands still; from the two clocks, not from /proc/stat, which a sandboxed service
    /// (ProcSubset=pid) does not see.
    private static let startTime: Double? = {
        guard let text = contents(of: "/proc/self/stat"), let stat = Stat(parsing: text),
            let now = seconds(of: CLOCK_REALTIME), let sinceBoot = seconds(of: CLOCK_BOOTTIME)
        else { return nil }
        let start = now - sinceBoot + stat.startTicks / Double(sysconf(Int32(_SC_CLK_TCK)))
        return (start * 100).rounded() / 100
    }()

    private static func seconds(of clock: clockid_t) -> Double? {
        var time = timespec()
        guard unsafe clock_gettime(clock, &time) == 0 else { return nil }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private static func contents(of path: String) -> String? {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return nil }
        defer { close(fd) }
        var buffer = [UInt8](repeating: 0, count: 2048)
        let count = unsafe read(fd, &buffer, buffer.count)
        guard count > 0 else { return nil }
        return String(decoding: buffer[..<count], as: UTF8.self)
    }

    private static func openDescriptors() -> Int? {
        guard let directory = unsafe opendir("/proc/self/fd") else { return nil }
        defer { unsafe closedir(directory) }
        var count = 0
        while let entry = unsafe readdir(directory) {
            if unsafe entry.pointee.d_name.0 != UInt8(ascii: ".") { count += 1 }
        }
        return max(count - 1, 0)  // one is the directory itself
    }
}
