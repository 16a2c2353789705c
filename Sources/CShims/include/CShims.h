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
/// ioctl(SIOCOUTQ): memory of what the peer has not read yet, bytes with the kernel's overhead.
int ksw_unsent_bytes(int fd);

// --- listening and polling (SocketAcceptance) ---

/// socket(2): AF_UNIX, SOCK_STREAM, non-blocking, close-on-exec.
int ksw_unix_socket(void);
/// bind(2) to `name`, of `length` bytes: a path, or the part of an abstract name behind its '@'. Too long: ENAMETOOLONG.
int ksw_unix_bind(int fd, const char *name, size_t length, int is_abstract);
/// connect(2), addressed like ksw_unix_bind.
int ksw_unix_connect(int fd, const char *name, size_t length, int is_abstract);
/// getsockname(2): writes at most `capacity` bytes, a leading '@' for an abstract name; returns the count (0: unnamed).
ssize_t ksw_unix_name(int fd, char *out, size_t capacity);
/// 1 if the descriptor is a UNIX stream socket that listens, 0 if it is something else.
int ksw_is_unix_listener(int fd);
/// fcntl: O_NONBLOCK and FD_CLOEXEC set.
int ksw_prepare_descriptor(int fd);

/// openat(2) with O_PATH | O_NOFOLLOW | O_CLOEXEC, O_DIRECTORY without O_NOFOLLOW if `is_directory`.
int ksw_open_path(int directory, const char *path, int is_directory);
/// fchownat(2) with AT_EMPTY_PATH on an O_PATH descriptor; (uid_t)-1 and (gid_t)-1 leave as is.
int ksw_change_owner(int path_fd, uid_t uid, gid_t gid);
/// chmod(2) of the very inode behind an O_PATH descriptor, through /proc.
int ksw_change_mode(int path_fd, mode_t mode);
/// renameat2(2) with RENAME_NOREPLACE in one directory; where the file system lacks it, EINVAL.
int ksw_rename_new(int directory, const char *from, const char *to);
/// openat(2) with O_CREAT | O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC.
int ksw_open_lock(int directory, const char *name, mode_t mode);

/// getpwnam_r(3): 0 found, 1 no such user, -1 failed.
int ksw_user_id(const char *name, uid_t *uid);
/// getgrnam_r(3): 0 found, 1 no such group, -1 failed.
int ksw_group_id(const char *name, gid_t *gid);
/// Writes the user's name, or the number where none is known; ends with a zero, cut to `capacity`.
void ksw_user_name(uid_t uid, char *out, size_t capacity);
/// The same for a group.
void ksw_group_name(gid_t gid, char *out, size_t capacity);

/// What ksw_poll_wait reports about one descriptor; `tag` is what it was added with.
typedef struct {
    uint64_t tag;
    uint32_t events;
} ksw_poll_event;

/// EPOLLIN, level-triggered.
extern const uint32_t ksw_poll_readable;
/// EPOLLIN | EPOLLRDHUP | EPOLLET.
extern const uint32_t ksw_poll_arrivals;
/// EPOLLIN | EPOLLET.
extern const uint32_t ksw_poll_data;
/// EPOLLHUP | EPOLLERR, which are always reported, and EPOLLRDHUP.
extern const uint32_t ksw_poll_ended;

/// epoll_create1(EPOLL_CLOEXEC).
int ksw_poll_new(void);
/// epoll_ctl(EPOLL_CTL_ADD); events 0 asks for hang-up and error only.
int ksw_poll_add(int poll, int fd, uint32_t events, uint64_t tag);
/// epoll_ctl(EPOLL_CTL_MOD), else like ksw_poll_add.
int ksw_poll_change(int poll, int fd, uint32_t events, uint64_t tag);
/// epoll_ctl(EPOLL_CTL_DEL).
int ksw_poll_remove(int poll, int fd);
/// epoll_wait(2).
int ksw_poll_wait(int poll, ksw_poll_event *events, int capacity, int timeout_ms);
/// 1 if poll(2) says POLLHUP or POLLERR right now.
int ksw_is_hung_up(int fd);
/// eventfd(2): non-blocking, close-on-exec.
int ksw_waker_new(void);
/// Makes the eventfd readable.
void ksw_waker_post(int waker);
/// Makes it unreadable again.
void ksw_waker_clear(int waker);
/// Blocks every signal in the calling thread.
void ksw_block_signals(void);

// --- process (SecureMemory, Lifecycle) ---

/// prctl(PR_SET_DUMPABLE).
int ksw_set_dumpable(int on);
/// prctl(PR_GET_DUMPABLE).
int ksw_get_dumpable(void);
/// pthread_setname_np of the calling thread; longer names are cut at 15 bytes.
void ksw_name_this_thread(const char *name);
/// pthread_getcpuclockid of the calling thread, for ksw_thread_time; -1 if there is none.
int ksw_thread_clock(void);
/// clock_gettime of that clock, in nanoseconds, from any thread; 0 if the thread has ended.
int64_t ksw_thread_time(int clock);
/// CLOCK_MONOTONIC in nanoseconds.
int64_t ksw_monotonic_time(void);
/// Processors that this process may run on, from sched_getaffinity; at least 1.
int ksw_usable_processors(void);
/// malloc_trim(0).
int ksw_trim_heap(void);
/// Resident memory in bytes, from /proc/self/statm; 0 where that cannot be read.
long ksw_resident_bytes(void);
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
