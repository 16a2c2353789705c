import CoreMetrics
import Observability
import SocketAcceptance
import Testing

@testable import Lifecycle

@Suite struct AcceptanceTests {
    @Test("the acceptor's log keys are those of the one file that names them")
    func logKeys() {
        let names: [LogKey: String] = [
            .peerPID: Names.LogKey.peerPID, .peerUID: Names.LogKey.peerUID, .peerGID: Names.LogKey.peerGID,
            .path: Names.LogKey.path, .reason: Names.LogKey.reason, .remedy: Names.LogKey.remedy,
            .unreadBytes: Names.LogKey.unreadBytes, .unsentBytes: Names.LogKey.unsentBytes,
            .count: Names.LogKey.count,
        ]
        for key in LogKey.allCases { #expect(names[key] == key.rawValue) }
    }

    @Test("the acceptor's reasons are those of the one file that names them")
    func reasons() {
        #expect(RefusalReason.allCases.map(\.rawValue) == Names.Value.refusals)
    }

    @Test("what the acceptor tells is what a scrape shows, each series from the start")
    func metrics() {
        let registry = PrometheusRegistry(process: false)
        func values() -> Set<String> {
            let page = String(decoding: registry.render(.text), as: UTF8.self)
            return Set(page.split(separator: "\n").map(String.init).filter { !$0.hasPrefix("#") })
        }
        let metrics = AcceptanceMetrics(factory: registry)
        let refusals = Names.Value.refusals.map {
            "kmsward_connections_refused_total{reason=\"\($0)\"} \($0 == "limit" ? 1 : 0)"
        }
        #expect(
            values().isSuperset(of: [
                "kmsward_connections 0", "kmsward_connections_accepted_total 0",
                "kmsward_connections_abandoned_total 0", "kmsward_accepting_paused 0",
                "kmsward_connections_refused_total{reason=\"limit\"} 0",
            ]))
        metrics.connectionAccepted()
        metrics.connectionsChanged(to: 7)
        metrics.connectionAbandoned()
        metrics.connectionRefused(.limit)
        metrics.acceptingPaused(true)
        #expect(
            values().isSuperset(
                of: [
                    "kmsward_connections 7", "kmsward_connections_accepted_total 1",
                    "kmsward_connections_abandoned_total 1", "kmsward_accepting_paused 1",
                ] + refusals))
        metrics.acceptingPaused(false)
        #expect(values().contains("kmsward_accepting_paused 0"))
    }
}
