/// What a reload makes of new settings.
public struct SettingsChange: Sendable, Equatable {
    /// What runs from now on: the new settings, but for what only a restart changes.
    public var settings: Settings
    /// The options that changed and are taken, in the order of the reference page; `keys` for anything about keys.
    public var taken: [String] = []
    /// The options that changed and wait for a restart.
    public var waiting: [String] = []
}

extension Settings {
    /// What `new` changes while these settings run.
    public func changing(to new: Settings) -> SettingsChange {
        var change = SettingsChange(settings: new)
        for option in Schema.file.options where !option.isEqual(self, new) {
            if option.summary.reloads {
                change.taken.append(option.summary.path)
            } else {
                change.waiting.append(option.summary.path)
                option.copy(self, &change.settings)
            }
        }
        return change
    }
}
