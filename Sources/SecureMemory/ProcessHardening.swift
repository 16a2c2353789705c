private import CShims
private import Glibc

/// What keeps the whole process from being read: no debugger of the same user, no core file.
public enum ProcessHardening {
    /// Forbids attaching and core files, unless `dumpable` is set for debugging.
    ///
    /// Call it before the first key is read.
    ///
    /// - Returns: One line for each thing that is not as it should be, for the operator.
    public static func apply(dumpable: Bool) -> [String] {
        if dumpable {
            return [
                "memory.dumpable is on: other processes of this user can read keys; turn it off after debugging"
            ]
        }
        var warnings: [String] = []
        if ksw_set_dumpable(0) != 0 {
            warnings.append(
                "prctl(PR_SET_DUMPABLE, 0) failed (\(SecureMemory.text(of: errno))):"
                    + " other processes of this user can read keys; check the seccomp filter")
        }
        if ksw_forbid_core_files() != 0 {
            warnings.append(
                "setting RLIMIT_CORE to 0 failed (\(SecureMemory.text(of: errno))):"
                    + " a crash may write a core file; set LimitCORE=0 in the unit")
        }
        return warnings
    }
}
