// Tells ThreadSanitizer about the contended path of Swift's Mutex, which lives in the uninstrumented standard library:
// without this every Mutex that two threads ever waited for looks like a race. The uncontended path is inlined into our
// code and needs no help. Preloaded into the test process by `sanitize thread`; nothing else is hidden by it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define SWIFT_CALL __attribute__((swiftcall))
#define SELF __attribute__((swift_context))
#define LOCK_SLOW "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define UNLOCK_SLOW "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"
#define TRY_LOCK_SLOW "$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF"

// Null in processes that are not instrumented: the library is preloaded into swift-test itself, too.
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);

typedef SWIFT_CALL void (*lock_function)(uint32_t, SELF void *);
typedef SWIFT_CALL bool (*try_lock_function)(SELF void *);
typedef SWIFT_CALL void (*unlock_function)(SELF void *);

SWIFT_CALL void lock_slow(uint32_t thread, SELF void *mutex) __asm__(LOCK_SLOW);
SWIFT_CALL bool try_lock_slow(SELF void *mutex) __asm__(TRY_LOCK_SLOW);
SWIFT_CALL void unlock_slow(SELF void *mutex) __asm__(UNLOCK_SLOW);

static void *next(const char *symbol) {
    void *found = dlsym(RTLD_NEXT, symbol);
    if (found == NULL) abort();  // another standard library: adapt this file to it
    return found;
}

SWIFT_CALL void lock_slow(uint32_t thread, SELF void *mutex) {
    ((lock_function)next(LOCK_SLOW))(thread, mutex);
    if (__tsan_acquire) __tsan_acquire(mutex);
}

SWIFT_CALL bool try_lock_slow(SELF void *mutex) {
    bool locked = ((try_lock_function)next(TRY_LOCK_SLOW))(mutex);
    if (locked && __tsan_acquire) __tsan_acquire(mutex);
    return locked;
}

SWIFT_CALL void unlock_slow(SELF void *mutex) {
    if (__tsan_release) __tsan_release(mutex);  // with a waiter it is the kernel that unlocks
    ((unlock_function)next(UNLOCK_SLOW))(mutex);
}
