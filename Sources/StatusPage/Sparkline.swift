/// A curve as a picture, with words for who cannot see it.
struct Sparkline {
    /// Width and height of the picture's own coordinates.
    private static let size = (width: 240.0, height: 48.0)

    let curve: Curve

    private var known: [(age: Double, value: Double)] {
        curve.points.compactMap { point in point.value.map { (point.age, $0) } }
    }

    /// The value that the top of the picture stands for.
    private var top: Double {
        let most = known.map(\.value).filter(\.isFinite).max() ?? 0
        return curve.unit == .share ? 1 : most > 0 ? most : 1
    }

    /// The latest value, or a dash.
    var latest: String {
        (curve.points.last?.value).map { Words.value($0, curve.unit) } ?? "–"
    }

    /// The worst of the hour, or for what has no worst the most.
    var extreme: String {
        let order: ((age: Double, value: Double), (age: Double, value: Double)) -> Bool = {
            $0.value < $1.value
        }
        let (name, worst) =
            curve.unit == .share ? ("lowest", known.min(by: order)) : ("highest", known.max(by: order))
        guard let worst else { return "nothing to measure yet" }
        if curve.isBad, worst.value == 0 { return "none in the last hour" }
        return "\(name) \(Words.value(worst.value, curve.unit)), \(Words.span(Int64(worst.age))) ago"
    }

    var picture: HTML {
        let hasTrouble = curve.isBad && known.contains { $0.value > 0 }
        return """
            <svg class="spark\(hasTrouble ? " bad" : "")" viewBox="0 0 240 48" preserveAspectRatio="none" \
            role="img" aria-label="\(curve.title), last hour: now \(latest), \(extreme)"><path class="base" d="M0 47.5H240"/>\
            <path class="line" d="\(path)"/></svg>
            """
    }

    /// One stroke for each stretch of known values; newest on the right.
    private var path: String {
        var path = ""
        var isDrawing = false
        for point in curve.points {
            guard let value = point.value else {
                isDrawing = false
                continue
            }
            let share = 1 - min(max(point.age / (History.span / .seconds(1)), 0), 1)
            let x = Self.coordinate(share * Self.size.width)
            let y = Self.coordinate(1.5 + (1 - min(value / top, 1)) * (Self.size.height - 3))
            // A point alone is a stroke of no length, which its round ends make a dot.
            path += isDrawing ? "L\(x) \(y)" : "M\(x) \(y)h0"
            isDrawing = true
        }
        return path
    }

    private static func coordinate(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }
}
