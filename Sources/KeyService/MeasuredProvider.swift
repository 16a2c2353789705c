internal import CoreMetrics
private import Observability
internal import RemoteKMS
internal import SecureMemory

/// A provider whose calls are counted and timed.
struct MeasuredProvider: Provider {
    private let base: any Provider
    private let key: String
    private let factory: any MetricsFactory
    private let timers: [Operation: CoreMetrics.Timer]

    private enum Operation: String, CaseIterable {
        case describe, wrap, unwrap
    }

    var name: String { base.name }
    var storage: KeyStorage { base.storage }

    init(_ base: any Provider, key: String, metrics factory: any MetricsFactory) {
        self.base = base
        self.factory = factory
        self.key = key
        timers = Dictionary(
            uniqueKeysWithValues: Operation.allCases.map { operation in
                let labels = [(Names.Label.key, key), (Names.Label.operation, operation.rawValue)]
                return (
                    operation,
                    CoreMetrics.Timer(
                        label: Names.Metric.backendDuration, dimensions: labels, factory: factory)
                )
            })
    }

    func describe(deadline: Deadline) async throws(RemoteKMSError) -> KeyDescription {
        let start = ContinuousClock.now
        do throws(RemoteKMSError) {
            let description = try await base.describe(deadline: deadline)
            record(.describe, since: start, failure: nil)
            return description
        } catch {
            record(.describe, since: start, failure: error)
            throw error
        }
    }

    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, deadline: Deadline
    ) async throws(RemoteKMSError) -> [UInt8] {
        let start = ContinuousClock.now
        do throws(RemoteKMSError) {
            let wrapped = try await base.wrap(plaintext, context: context, deadline: deadline)
            record(.wrap, since: start, failure: nil)
            return wrapped
        } catch {
            record(.wrap, since: start, failure: error)
            throw error
        }
    }

    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, deadline: Deadline
    ) async throws(RemoteKMSError) -> SecretBytes {
        let start = ContinuousClock.now
        do throws(RemoteKMSError) {
            let bytes = try await base.unwrap(wrapped, context: context, deadline: deadline)
            record(.unwrap, since: start, failure: nil)
            return bytes
        } catch {
            record(.unwrap, since: start, failure: error)
            throw error
        }
    }

    private func record(
        _ operation: Operation, since start: ContinuousClock.Instant, failure: RemoteKMSError?
    ) {
        timers[operation]?.recordNanoseconds(Int64(start.duration(to: .now) / .nanoseconds(1)))
        let labels = [
            (Names.Label.key, key), (Names.Label.operation, operation.rawValue),
            (Names.Label.outcome, failure?.code.rawValue ?? "ok"),
        ]
        Counter(label: Names.Metric.backendCalls, dimensions: labels, factory: factory).increment()
    }
}
