#if DEBUG
    internal import GRPCEngine
    internal import Glibc
    internal import ServiceLifecycle
    private import UnixSignals

    /// Holds the engine thread for good once SIGUSR1 comes, so that a test sees the watchdog act; debug builds only.
    struct WatchdogTrial: Service {
        private actor Hold {
            private let engine: EngineThread
            nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }

            init(_ engine: EngineThread) { self.engine = engine }

            func takeThread() { while true { pause() } }
        }

        let engine: EngineThread

        func run() async throws {
            let signals = await UnixSignalsSequence(trapping: .sigusr1)
            await cancelWhenGracefulShutdown {
                for await _ in signals { await Hold(engine).takeThread() }
            }
        }
    }
#endif
