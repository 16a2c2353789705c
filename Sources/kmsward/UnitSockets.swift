internal import Configuration
internal import Observability
internal import SocketAcceptance

/// The sockets that systemd passed on: their units say what some options of the file would.
struct UnitSockets: Sendable {
    /// `FileDescriptorName=` of the one that metrics and health are served on.
    static let metricsName = "metrics"

    /// Path or '@' name of the one that API servers connect to; nil if the daemon makes its own.
    private let served: String?
    /// Address and port of the one for metrics and health.
    private let scraped: String?

    /// Throws if the one for metrics is none to serve on.
    init(_ activated: [ActivatedDescriptor]) throws(EndpointError) {
        served = activated.first { $0.name != Self.metricsName }?.address
        let metrics = activated.first { $0.name == Self.metricsName }
        if let metrics { scraped = try HealthEndpoint.address(of: metrics.number) } else { scraped = nil }
    }

    /// Whether a unit says what this option would; then no restart applies it either.
    func decide(_ option: String) -> Bool {
        switch option {
        case "socket.path", "socket.mode", "socket.owner", "socket.group": served != nil
        case "metrics.listen": scraped != nil
        default: false
        }
    }

    /// Whether a warning about the file is to be told: not one that goes by the mode of a socket of the daemon's own.
    func leaves(_ warning: Diagnostic) -> Bool { served == nil || !warning.isAboutOwnSocket }

    /// What is to be said of options that the file gives and a unit says otherwise, one line each.
    func remarks(on settings: Settings, in database: AccountDatabase = .system) -> [Diagnostic] {
        let remarks = served.map { aboutSocket($0, settings, database) } ?? []
        return (remarks + aboutMetrics(settings)).filter { settings.position(of: $0.option) != nil }.map {
            settings.diagnostic(.warning, about: $0.option, $0.text)
        }
    }

    private typealias Remark = (option: String, text: String)

    private func aboutSocket(
        _ served: String, _ settings: Settings, _ database: AccountDatabase
    ) -> [Remark] {
        let unit = Self.unit(of: served)
        var remarks: [Remark] = []
        if (try? SocketAddress(parsing: settings.socket.path))?.description != served {
            remarks.append(
                (
                    "socket.path",
                    "systemd passed on \(served), and that one is served: API servers must dial it, or ListenStream= of "
                        + "\(unit) must say \(settings.socket.path)"
                ))
        }
        // An abstract one has none of these.
        guard let present = SocketPermissions(ofSocketAt: served) else { return remarks }
        // Names that nobody knows are no obstacle here: they are only compared.
        let accounts = settings.accounts(in: database).accounts
        if present.mode != settings.socket.mode {
            let mode = String(settings.socket.mode, radix: 8)
            remarks.append(("socket.mode", Self.elsewhere("SocketMode=0\(mode)", unit)))
        }
        if let owner = settings.socket.owner, present.owner != accounts?.socketOwner {
            remarks.append(("socket.owner", Self.elsewhere("SocketUser=\(owner.text)", unit)))
        }
        if let group = settings.socket.group, present.group != accounts?.socketGroup {
            remarks.append(("socket.group", Self.elsewhere("SocketGroup=\(group.text)", unit)))
        }
        return remarks
    }

    private func aboutMetrics(_ settings: Settings) -> [Remark] {
        let wanted = settings.metrics.listen?.text
        guard let scraped, scraped != wanted else { return [] }
        return [
            (
                "metrics.listen",
                "it says \(wanted ?? "off"), but the unit of the socket says \(scraped), and that is where metrics and health "
                    + "are served: change ListenStream= of kmsward-metrics.socket, or mask that unit"
            )
        ]
    }

    private static func elsewhere(_ assignment: String, _ unit: String) -> String {
        "it does not apply to the socket that systemd passes on: write \(assignment) with `systemctl edit \(unit)`, below "
            + "[Socket]"
    }

    /// The packaged unit that has a socket there.
    private static func unit(of path: String) -> String {
        let parts = path.split(separator: "/")
        guard parts.count == 4, path.hasPrefix("/run/kmsward/") else { return "kmsward.socket" }
        return "kmsward@\(parts[2]).socket"
    }
}

extension Settings.Account {
    fileprivate var text: String {
        switch self {
        case .number(let number): String(number)
        case .name(let name): name
        }
    }
}
