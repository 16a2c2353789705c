// Linux calls that Swift's Glibc module does not show: those behind _GNU_SOURCE, variadic ones, and macros.
// One function per call, the kernel's or glibc's meaning unchanged: result or -1 with errno.
#ifndef KMSWARD_CSHIMS_H
#define KMSWARD_CSHIMS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// --- sockets (SocketAcceptance, GRPCEngine) ---

/// accept4(2) with SOCK_NONBLOCK | SOCK_CLOEXEC.
int ksw_accept(int listener);
/// SO_PEERCRED of a connected UNIX socket.
int ksw_peer_credentials(int fd, pid_t *pid, uid_t *uid, gid_t *gid);
/// SO_PEERGROUPS: fills at most `capacity` groups; returns how many the peer has, or -1.
int ksw_peer_groups(int fd, gid_t *groups, size_t capacity);
/// fcntl(F_DUPFD_CLOEXEC).
int ksw_dup_cloexec(int fd);
/// ioctl(FIONREAD): bytes the process has not read yet.
int ksw_unread_bytes(int fd);

// --- process (SecureMemory, Lifecycle) ---

/// prctl(PR_SET_DUMPABLE).
int ksw_set_dumpable(int on);
/// prctl(PR_GET_DUMPABLE).
int ksw_get_dumpable(void);
/// pthread_setname_np of the calling thread; longer names are cut at 15 bytes.
void ksw_name_this_thread(const char *name);
/// mallopt(M_ARENA_MAX, 1): one arena, so that memory freed after a burst can be given back.
void ksw_use_one_malloc_arena(void);
/// malloc_trim(0).
int ksw_trim_heap(void);
/// explicit_bzero(3): zeroes memory in a way that the compiler may not leave out. A null buffer has count 0.
void ksw_wipe(void *buffer, size_t count);
/// getrandom(2), whole buffer or -1.
int ksw_random(void *buffer, size_t count);
/// setrlimit(RLIMIT_CORE, 0).
int ksw_forbid_core_files(void);
/// getrlimit(RLIMIT_MEMLOCK): the soft limit in bytes; UINT64_MAX where there is none.
int ksw_memlock_limit(uint64_t *soft);
/// setrlimit(RLIMIT_MEMLOCK), soft limit only.
int ksw_set_memlock_limit(uint64_t soft);

// --- wake-ups (Observability) ---

/// eventfd(2), counting from 0, EFD_CLOEXEC | EFD_NONBLOCK.
int ksw_eventfd(void);
/// strerror_r(3): what errno says, on any thread. `size` is not 0.
void ksw_error_text(int error, char *text, size_t size);

#endif
