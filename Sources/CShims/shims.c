#define _GNU_SOURCE
#include "CShims.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <grp.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int ksw_accept(int listener) { return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }

int ksw_peer_credentials(int fd, pid_t *pid, uid_t *uid, gid_t *gid) {
    struct ucred cred;
    socklen_t size = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) return -1;
    *pid = cred.pid;
    *uid = cred.uid;
    *gid = cred.gid;
    return 0;
}

int ksw_peer_groups(int fd, gid_t *groups, size_t capacity) {
    socklen_t size = (socklen_t)(capacity * sizeof *groups);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) != 0 && errno != ERANGE) return -1;
    return (int)(size / sizeof *groups);
}

int ksw_dup_cloexec(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

int ksw_unread_bytes(int fd) {
    int count = 0;
    return ioctl(fd, FIONREAD, &count) == 0 ? count : -1;
}

int ksw_unsent_bytes(int fd) {
    int count = 0;
    return ioctl(fd, SIOCOUTQ, &count) == 0 ? count : -1;
}

int ksw_unix_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

static socklen_t fill_address(struct sockaddr_un *address, const char *name, size_t length, int is_abstract) {
    // The kernel counts an abstract name by its length; a path keeps its closing NUL.
    if (length == 0 || length + 1 > sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return 0;
    }
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + (is_abstract ? 1 : 0), name, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

int ksw_unix_bind(int fd, const char *name, size_t length, int is_abstract) {
    struct sockaddr_un address;
    socklen_t size = fill_address(&address, name, length, is_abstract);
    return size == 0 ? -1 : bind(fd, (struct sockaddr *)&address, size);
}

int ksw_unix_connect(int fd, const char *name, size_t length, int is_abstract) {
    struct sockaddr_un address;
    socklen_t size = fill_address(&address, name, length, is_abstract);
    return size == 0 ? -1 : connect(fd, (struct sockaddr *)&address, size);
}

ssize_t ksw_unix_name(int fd, char *out, size_t capacity) {
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return -1;
    if (address.sun_family != AF_UNIX || size <= offsetof(struct sockaddr_un, sun_path)) return 0;
    size_t length = size - offsetof(struct sockaddr_un, sun_path);
    if (length > sizeof address.sun_path) length = sizeof address.sun_path;
    if (address.sun_path[0] == 0) {
        address.sun_path[0] = '@';
    } else {
        length = strnlen(address.sun_path, length);
    }
    if (length > capacity) length = capacity;
    memcpy(out, address.sun_path, length);
    return (ssize_t)length;
}

static int option_is(int fd, int option, int wanted) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 && value == wanted;
}

int ksw_is_unix_listener(int fd) {
    return option_is(fd, SO_DOMAIN, AF_UNIX) && option_is(fd, SO_TYPE, SOCK_STREAM) && option_is(fd, SO_ACCEPTCONN, 1);
}

int ksw_prepare_descriptor(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -1;
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int ksw_open_path(int directory, const char *path, int is_directory) {
    return openat(directory, path, O_PATH | O_CLOEXEC | (is_directory ? O_DIRECTORY : O_NOFOLLOW));
}

int ksw_change_owner(int path_fd, uid_t uid, gid_t gid) { return fchownat(path_fd, "", uid, gid, AT_EMPTY_PATH); }

int ksw_change_mode(int path_fd, mode_t mode) {
    char name[32];
    snprintf(name, sizeof name, "/proc/self/fd/%d", path_fd);
    return chmod(name, mode);
}

int ksw_rename_new(int directory, const char *from, const char *to) {
    return renameat2(directory, from, directory, to, RENAME_NOREPLACE);
}

int ksw_open_lock(int directory, const char *name, mode_t mode) {
    return openat(directory, name, O_CREAT | O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode);
}

// getpwnam_r and getgrnam_r with one shape: the failure's number, whether there is an entry, and its id.
typedef int (*account_lookup)(const char *name, char *buffer, size_t size, id_t *id, int *is_found);

static int look_up_user(const char *name, char *buffer, size_t size, id_t *id, int *is_found) {
    struct passwd entry, *found = NULL;
    int failure = getpwnam_r(name, &entry, buffer, size, &found);
    if ((*is_found = found != NULL)) *id = entry.pw_uid;
    return failure;
}

static int look_up_group(const char *name, char *buffer, size_t size, id_t *id, int *is_found) {
    struct group entry, *found = NULL;
    int failure = getgrnam_r(name, &entry, buffer, size, &found);
    if ((*is_found = found != NULL)) *id = entry.gr_gid;
    return failure;
}

// Looks an account up with as much memory as its entry takes.
static int account_id(account_lookup look_up, const char *name, id_t *id) {
    for (size_t size = 1024; size <= (1u << 20); size *= 4) {
        char *buffer = malloc(size);
        if (buffer == NULL) return -1;
        int is_found = 0;
        int failure = look_up(name, buffer, size, id, &is_found);
        free(buffer);
        if (is_found) return 0;
        if (failure == 0 || failure == ENOENT) return 1;
        if (failure != ERANGE) {
            errno = failure;
            return -1;
        }
    }
    errno = ERANGE;
    return -1;
}

int ksw_user_id(const char *name, uid_t *uid) { return account_id(look_up_user, name, uid); }
int ksw_group_id(const char *name, gid_t *gid) { return account_id(look_up_group, name, gid); }

void ksw_user_name(uid_t uid, char *out, size_t capacity) {
    char buffer[16384];
    struct passwd entry, *found = NULL;
    if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) == 0 && found != NULL)
        snprintf(out, capacity, "%s", found->pw_name);
    else
        snprintf(out, capacity, "%u", uid);
}

void ksw_group_name(gid_t gid, char *out, size_t capacity) {
    char buffer[16384];
    struct group entry, *found = NULL;
    if (getgrgid_r(gid, &entry, buffer, sizeof buffer, &found) == 0 && found != NULL)
        snprintf(out, capacity, "%s", found->gr_name);
    else
        snprintf(out, capacity, "%u", gid);
}

const uint32_t ksw_poll_readable = EPOLLIN;
const uint32_t ksw_poll_arrivals = EPOLLIN | EPOLLRDHUP | EPOLLET;
const uint32_t ksw_poll_data = EPOLLIN | EPOLLET;
const uint32_t ksw_poll_ended = EPOLLHUP | EPOLLERR | EPOLLRDHUP;

int ksw_poll_new(void) { return epoll_create1(EPOLL_CLOEXEC); }

int ksw_poll_add(int poll, int fd, uint32_t events, uint64_t tag) {
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

int ksw_poll_change(int poll, int fd, uint32_t events, uint64_t tag) {
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event);
}

int ksw_poll_remove(int poll, int fd) {
    struct epoll_event ignored = {0};
    return epoll_ctl(poll, EPOLL_CTL_DEL, fd, &ignored);
}

int ksw_poll_wait(int poll, ksw_poll_event *events, int capacity, int timeout_ms) {
    struct epoll_event reported[64];
    int count = epoll_wait(poll, reported, capacity < 64 ? capacity : 64, timeout_ms);
    for (int i = 0; i < count; i++) {
        events[i].tag = reported[i].data.u64;
        events[i].events = reported[i].events;
    }
    return count;
}

int ksw_is_hung_up(int fd) {
    struct pollfd item = {.fd = fd, .events = 0};
    return poll(&item, 1, 0) == 1 && (item.revents & (POLLHUP | POLLERR)) != 0;
}

int ksw_waker_new(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

void ksw_waker_post(int waker) {
    // EAGAIN means that the counter is full, so the other side wakes anyway.
    uint64_t one = 1;
    while (write(waker, &one, sizeof one) < 0 && errno == EINTR) continue;
}

void ksw_waker_clear(int waker) {
    uint64_t count;
    while (read(waker, &count, sizeof count) < 0 && errno == EINTR) continue;
}

void ksw_block_signals(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
}

int ksw_set_dumpable(int on) { return prctl(PR_SET_DUMPABLE, on ? 1 : 0, 0, 0, 0); }
int ksw_get_dumpable(void) { return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0); }

void ksw_name_this_thread(const char *name) {
    char cut[16] = {0};
    strncpy(cut, name, sizeof cut - 1);
    pthread_setname_np(pthread_self(), cut);
}


// Memory that a burst freed in another arena than the first is never given back whole: malloc_trim leaves the top of the
// others alone. As a constructor, because the concurrency runtime has threads, and so arenas, before main says a word.
__attribute__((constructor)) static void use_one_malloc_arena(void) { mallopt(M_ARENA_MAX, 1); }

int ksw_thread_clock(void) {
    clockid_t clock;
    return pthread_getcpuclockid(pthread_self(), &clock) == 0 ? (int)clock : -1;
}

int64_t ksw_monotonic_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int ksw_usable_processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

int64_t ksw_thread_time(int clock) {
    struct timespec time;
    return clock_gettime((clockid_t)clock, &time) == 0 ? time.tv_sec * INT64_C(1000000000) + time.tv_nsec : 0;
}

int ksw_trim_heap(void) { return malloc_trim(0); }

long ksw_resident_bytes(void) {
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    unsigned long size, resident;
    text[count > 0 ? count : 0] = '\0';
    return sscanf(text, "%lu %lu", &size, &resident) == 2 ? (long)resident * sysconf(_SC_PAGESIZE) : 0;
}

int ksw_random(void *buffer, size_t count) {
    unsigned char *next = buffer;
    while (count > 0) {
        ssize_t got = getrandom(next, count, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        next += got;
        count -= (size_t)got;
    }
    return 0;
}

int ksw_forbid_core_files(void) {
    struct rlimit none = {0, 0};
    return setrlimit(RLIMIT_CORE, &none);
}

int ksw_memlock_limit(uint64_t *soft) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return -1;
    *soft = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
    return 0;
}

int ksw_set_memlock_limit(uint64_t soft) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return -1;
    limit.rlim_cur = soft;
    return setrlimit(RLIMIT_MEMLOCK, &limit);
}

int ksw_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

void ksw_error_text(int error, char *text, size_t size) {
    // With _GNU_SOURCE this is the strerror_r that may return a text of its own.
    const char *said = strerror_r(error, text, size);
    if (said != text) {
        strncpy(text, said, size - 1);
        text[size - 1] = 0;
    }
}
