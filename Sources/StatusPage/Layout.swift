private import Events
internal import KeyService
internal import Logging
internal import Observability

/// The report as HTML.
///
/// All of it is there without a script, which only puts newer values in the place of those shown.
struct Layout {
    let report: Report

    private var now: Int64 { report.now }

    var document: HTML {
        let verdict = Verdict(report)
        return """
            <!DOCTYPE html>
            <html lang="en" data-version="\(report.identity.version)">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <meta name="robots" content="noindex">
            <title>\(verdict.level.symbol) \(verdict.headline) – kmsward on \(report.identity.host)</title>
            <link rel="icon" href="data:,">
            <noscript><meta http-equiv="refresh" content="15"></noscript>
            <style>\(.ours(PackageResources.page_css))</style>
            </head>
            <body>
            <header>
            <p class="over">kmsward on \(report.identity.host)</p>
            <div id="verdict" role="status">\(headline(verdict))</div>
            <p id="stale" role="alert" hidden></p>
            </header>
            <main id="live">
            \(findings(verdict))\(keys)\(curves)\(events)\(facts)
            <footer><p>As of \(time(now)). <noscript>Renews itself every 15 seconds.</noscript>\
            <span class="scripted" hidden>Renews itself every 5 seconds.</span> \
            <a id="to-metrics" href="/metrics">/metrics</a> <a id="to-readyz" href="/readyz?verbose">/readyz</a> \
            <a id="to-livez" href="/livez">/livez</a></p></footer>
            </main>
            <script>\(.ours(PackageResources.page_js))</script>
            </body>
            </html>

            """
    }

    private func headline(_ verdict: Verdict) -> HTML {
        """
        <h1 class="\(verdict.level.rawValue)"><span class="mark" aria-hidden="true">\(verdict.level.symbol)</span> \
        \(verdict.headline)</h1>
        """
    }

    private func findings(_ verdict: Verdict) -> HTML {
        guard !verdict.findings.isEmpty else { return "" }
        let items: [HTML] = verdict.findings.map { finding in
            "<li><b>\(finding.whose)</b> <span>\(finding.what)</span>\(advice(finding))</li>\n"
        }
        return section("why", "Whose fault") {
            """
            <ul class="findings \(verdict.level.rawValue)">
            \(items)</ul>
            """
        }
    }

    private func section(_ id: String, _ title: String, _ content: () -> HTML) -> HTML {
        """
        <section aria-labelledby="\(id)">
        <h2 id="\(id)">\(title)</h2>
        \(content())
        </section>

        """
    }

    /// What to do about it: here and now, for whoever has no shell at hand.
    private func advice(_ finding: Verdict.Finding) -> HTML {
        let steps: [HTML] = finding.event?.plainSteps.map { "<li>\($0)</li>\n" } ?? []
        let list: HTML = steps.isEmpty ? "" : "<ol class=\"steps\">\n\(steps)</ol>"
        let code: HTML = finding.event.map { "<code>kmsward explain \($0.code)</code>, " } ?? ""
        let page: HTML = finding.runbook.map { "runbook <code>\($0)</code>" } ?? ""
        guard finding.runbook != nil else { return list }
        return "\(list) <p class=\"good\">More: \(code)\(page)</p>"
    }

    private func time(_ seconds: Int64) -> HTML {
        "<time datetime=\"\(Words.machineTime(seconds))\">\(Words.time(seconds))</time>"
    }

    // MARK: keys

    private var keys: HTML {
        // What is wrong first, then the one that encrypts; the rest, of which there may be many, in a line each.
        let bad = report.keys.filter { Self.state(of: $0).1 != .well }
            .sorted { Self.state(of: $0).1 > Self.state(of: $1).1 }
        let rest = report.keys.filter { Self.state(of: $0).1 == .well }
        let open = bad + rest.filter(\.encrypts)
        let cards: [HTML] = open.map { card($0, isFolded: false) }
        let folded: [HTML] = rest.filter { !$0.encrypts }.map { card($0, isFolded: true) }
        let all: HTML =
            report.keys.isEmpty
            ? "<p>None is known yet.</p>"
            : "<div class=\"cards\">\n\(cards)</div>\n<div class=\"folded\">\n\(folded)</div>"
        return section("keys", "Keys") {
            """
            \(all)
            """
        }
    }

    private func card(_ key: KeySnapshot, isFolded: Bool) -> HTML {
        let (state, level) = Self.state(of: key)
        var rows: [(String, HTML)] = [
            ("Role", key.encrypts ? "encrypts and decrypts" : "decrypts only"),
            ("Provider", "\(key.provider)"),
            ("Last proof", key.lastProof.map { "\(Words.ago($0, now))" } ?? "none yet"),
        ]
        if let probe = key.lastProbe { rows.append(("Last probe", "\(Words.ago(probe, now))")) }
        if let left = key.writesStopIn, key.encrypts, key.state == .active, key.trouble != nil {
            rows.append(
                ("Writes stop in", key.writesFail ? "they fail" : "\(Words.span(left.components.seconds))"))
        }
        if let id = key.keyID { rows.append(("key_id", "<code>\(id)</code>")) }
        if let version = key.version { rows.append(("Version", "<code>\(version)</code>")) }
        rows.append(("Writes", "\(key.writeFormat), \(key.suite), epoch \(Int(key.epoch))"))
        if let age = key.localKEKAge {
            let most = key.localKEKMaximumAge.map { " of \(Words.span($0.components.seconds))" } ?? ""
            rows.append(("Local KEK", "\(Words.span(age.components.seconds))\(most) old"))
        }
        if let uses = key.localKEKUses { rows.append(("Sealed under it", "\(Words.number(Double(uses)))")) }
        if let end = key.credentialsEnd { rows.append(("Credentials end", ending(end))) }
        if let end = key.certificateEnd { rows.append(("Certificate ends", ending(end))) }
        if report.openBreakers.contains(key.name) {
            rows.append(("Breaker", "open: the service is left alone for now"))
        }
        let list: [HTML] = rows.map { "<div><dt>\($0.0)</dt><dd>\($0.1)</dd></div>\n" }
        let title: HTML = "\(key.name) <span class=\"state\">\(state)</span>"
        if isFolded {
            return """
                <details class="\(level.rawValue)" id="key-\(key.name)">
                <summary id="open-\(key.name)">\(title)</summary>
                <dl>
                \(list)</dl>
                </details>

                """
        }
        return """
            <article class="\(level.rawValue)">
            <h3>\(title)</h3>
            <dl>
            \(list)</dl>
            </article>

            """
    }

    static func state(of key: KeySnapshot) -> (String, Verdict.Level) {
        switch key.state {
        case .active where key.trouble == nil: ("well", .well)
        case .active where key.writesFail && key.encrypts: ("does not encrypt", .down)
        case .active: ("serves, with trouble", .trouble)
        case .starting: ("not known yet", key.encrypts ? .down : .trouble)
        case .failed: ("does not serve", key.encrypts ? .down : .trouble)
        }
    }

    private func ending(_ end: Int64) -> HTML {
        end > now ? "in \(Words.span(end - now))" : "ended \(Words.ago(end, now))"
    }

    // MARK: the last hour

    private var curves: HTML {
        let figures: [HTML] = report.curves.map { curve in
            let line = Sparkline(curve: curve)
            return """
                <figure>
                <figcaption><span class="title">\(curve.title)</span> <span class="now">\(line.latest)</span></figcaption>
                \(line.picture)
                <p class="extreme">\(line.extreme)</p>
                <p class="good">\(curve.good)</p>
                </figure>

                """
        }
        return section("hour", "The last hour") {
            """
            <div class="curves">
            \(figures)</div>
            """
        }
    }

    // MARK: events

    private var events: HTML {
        let items: [HTML] = report.events.map { event in
            let often: HTML =
                event.count > 1
                ? " <span class=\"often\">told \(event.count) times since \(time(Int64(event.first.seconds)))</span>"
                : ""
            return """
                <li class="\(event.level.rawValue)"><p class="head"><span class="level">\(event.level.rawValue)</span> \
                \(time(Int64(event.last.seconds))) <code>\(event.code)</code>\(often)</p>
                <p>\(event.line)</p></li>

                """
        }
        let none: HTML =
            report.hidesEvents
            ? "<p>None that <code>log.level</code> lets through, which hides some.</p>"
            : "<p>None since the start.</p>"
        let list: HTML = items.isEmpty ? none : "<ol class=\"events\">\n\(items)</ol>"
        return section("events", "Events") {
            """
            <p class="good">The latest first. What to do about one: <code>kmsward explain CODE</code>, or its runbook.</p>
            \(list)
            """
        }
    }

    // MARK: the rest

    private var facts: HTML {
        let identity = report.identity
        var rows: [(String, HTML)] = [
            ("Version", "\(identity.version)"),
            ("Started", "\(Words.ago(identity.startedAt, now))"),
            ("Connections", "\(report.connections)"),
            ("Calls in flight", "\(report.callsInFlight)"),
            ("Cached keys", "\(report.cacheEntries)"),
            ("Secrets in memory", report.isMemoryLocked ? "locked" : "not locked"),
        ]
        if report.configuredAt > 0 {
            rows.append(("Configuration", "read \(Words.ago(report.configuredAt, now))"))
        }
        let list: [HTML] = rows.map { "<div><dt>\($0.0)</dt><dd>\($0.1)</dd></div>\n" }
        return section("daemon", "This daemon") {
            """
            <dl class="facts">
            \(list)</dl>
            """
        }
    }
}
