/// Finds the right spelling that a wrong one most likely meant.
enum Spelling {
    /// The candidate nearest to `word`, or nil when none is near enough to be a slip of the hand.
    ///
    /// Case and the choice between `-` and `_` do not count; a candidate that `word` abbreviates counts as near.
    static func nearest(to word: String, among candidates: [String]) -> String? {
        let word = folded(word)
        let best =
            candidates
            .map { (candidate: $0, distance: cost(of: word, for: folded($0))) }
            .filter { $0.distance <= max(1, min(3, max($0.candidate.utf8.count, word.count) / 3)) }
            .min { $0.distance < $1.distance }
        return best?.candidate
    }

    private static func folded(_ text: String) -> [UInt8] {
        text.lowercased().utf8.map { $0 == UInt8(ascii: "-") ? UInt8(ascii: "_") : $0 }
    }

    private static func cost(of word: [UInt8], for candidate: [UInt8]) -> Int {
        // Nothing in the schema is longer than this, and the distance costs length times length.
        guard word.count <= 64 else { return .max }
        let isAbbreviation = word.count >= 3 && candidate.starts(with: word)
        return isAbbreviation ? 1 : distance(word, candidate)
    }

    /// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
    static func distance(_ one: [UInt8], _ other: [UInt8]) -> Int {
        var beforeLast: [Int] = []
        var last = Array(0...other.count)
        for row in one.indices {
            var current = [row + 1]
            for column in other.indices {
                let replacement = last[column] + (one[row] == other[column] ? 0 : 1)
                var best = min(replacement, last[column + 1] + 1, current[column] + 1)
                if row > 0, column > 0, one[row] == other[column - 1], one[row - 1] == other[column] {
                    best = min(best, beforeLast[column - 1] + 1)
                }
                current.append(best)
            }
            (beforeLast, last) = (last, current)
        }
        return last[other.count]
    }
}
