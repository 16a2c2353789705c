// libgrpc C-core 1.51 (Debian libgrpc-dev), and static-inline shims for what Swift cannot call or should not
// spell: unions, macros, batches of operations, and the storage that C-core writes into.
#ifndef KMSWARD_CGRPC_SHIM_H
#define KMSWARD_CGRPC_SHIM_H

// First: grpc defines _GNU_SOURCE, under which fd_set has other field names than in Swift's own Glibc module.
#include <sys/select.h>

#include <dlfcn.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/compression.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/// Debian builds Abseil with its debug checks: every lock of libgrpc is entered in a graph to find deadlocks, which is 7 % of
/// the instructions of a call. Turned off where that function is found; no harm where it is not.
static inline void ksw_forgo_deadlock_detection(void) {
    // absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); it has no C name.
    void (*set)(int) =
        (void (*)(int))dlsym(RTLD_DEFAULT, "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE");
    if (set != NULL) set(0);
}

// --- wiped memory ---

static inline void ksw_grpc_wipe(void *start, size_t length) {
    memset(start, 0, length);
    __asm__ __volatile__("" : : "r"(start) : "memory");  // the compiler may not drop the memset before a free
}

/// Destroys the memory of a reply slice. Called once, on whichever thread drops the last reference: no lock, no Swift.
static inline void ksw_wipe_and_free(void *start, size_t length) {
    if (start != NULL) ksw_grpc_wipe(start, length);
    free(start);
}

// --- received messages ---

/// A received message as one contiguous range. `owner` is the byte buffer that holds it, or NULL when `start` is a
/// gathered copy from malloc.
typedef struct ksw_message {
    uint8_t *start;
    size_t length;
    grpc_byte_buffer *owner;
} ksw_message;

static inline void ksw_wipe_byte_buffer(grpc_byte_buffer *buffer) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) return;
    grpc_slice *slice;
    while (grpc_byte_buffer_reader_peek(&reader, &slice))
        ksw_grpc_wipe(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
    grpc_byte_buffer_reader_destroy(&reader);
}

/// Takes over `buffer`. A message in one slice is lent in place; one in several is gathered, and the slices wiped.
/// Returns 0 if the buffer cannot be read (still compressed); it is destroyed then.
static inline int ksw_message_adopt(grpc_byte_buffer *buffer, ksw_message *message) {
    grpc_byte_buffer_reader reader;
    grpc_slice *slice;
    size_t total = grpc_byte_buffer_length(buffer);
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        grpc_byte_buffer_destroy(buffer);
        return 0;
    }
    message->owner = buffer;
    message->length = total;
    message->start = NULL;
    if (total > 0 && grpc_byte_buffer_reader_peek(&reader, &slice)) {
        if (GRPC_SLICE_LENGTH(*slice) == total) {
            message->start = GRPC_SLICE_START_PTR(*slice);
        } else {
            uint8_t *gathered = malloc(total), *next = gathered;
            if (gathered == NULL) abort();
            do {
                memcpy(next, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
                next += GRPC_SLICE_LENGTH(*slice);
            } while (grpc_byte_buffer_reader_peek(&reader, &slice));
            message->start = gathered;
            message->owner = NULL;
        }
    }
    grpc_byte_buffer_reader_destroy(&reader);
    if (message->owner == NULL) {
        ksw_wipe_byte_buffer(buffer);
        grpc_byte_buffer_destroy(buffer);
    }
    return 1;
}

/// Wipes the message in place, then lets it go: only its own range, for neighbours share the transport's buffer.
static inline void ksw_message_destroy(ksw_message *message) {
    if (message->owner != NULL) {
        ksw_wipe_byte_buffer(message->owner);
        grpc_byte_buffer_destroy(message->owner);
    } else {
        ksw_wipe_and_free(message->start, message->length);
    }
}

// --- server calls ---

/// Where C-core writes what arrived. One per slot, at one address for as long as an operation may be under way.
typedef struct ksw_server_slot {
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_byte_buffer *payload;
    grpc_call_details details;
    int was_cancelled;
} ksw_server_slot;

static inline ksw_server_slot *ksw_server_slot_new(void) {
    ksw_server_slot *slot = calloc(1, sizeof *slot);
    if (slot == NULL) abort();
    grpc_metadata_array_init(&slot->metadata);
    grpc_call_details_init(&slot->details);
    return slot;
}

/// Lets go of the call that the slot held, and makes it ready to be armed again.
static inline void ksw_server_slot_reset(ksw_server_slot *slot) {
    if (slot->payload != NULL) {
        ksw_wipe_byte_buffer(slot->payload);
        grpc_byte_buffer_destroy(slot->payload);
        slot->payload = NULL;
    }
    if (slot->call != NULL) {
        grpc_call_unref(slot->call);
        slot->call = NULL;
    }
    grpc_metadata_array_destroy(&slot->metadata);
    grpc_metadata_array_init(&slot->metadata);
    grpc_call_details_destroy(&slot->details);
    grpc_call_details_init(&slot->details);
    slot->was_cancelled = 0;
}

static inline void ksw_server_slot_free(ksw_server_slot *slot) {
    ksw_server_slot_reset(slot);
    grpc_metadata_array_destroy(&slot->metadata);
    grpc_call_details_destroy(&slot->details);
    free(slot);
}

static inline void *ksw_register_method(grpc_server *server, const char *path) {
    return grpc_server_register_method(server, path, NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
}

static inline grpc_call_error ksw_arm(grpc_server *server, void *method, ksw_server_slot *slot,
                                      grpc_completion_queue *queue, uint64_t tag) {
    return grpc_server_request_registered_call(server, method, &slot->call, &slot->deadline, &slot->metadata,
                                               &slot->payload, queue, queue, (void *)(uintptr_t)tag);
}

/// Arms the slot for a method nobody registered; without one of these such a call would never be answered.
static inline grpc_call_error ksw_arm_unregistered(grpc_server *server, ksw_server_slot *slot,
                                                   grpc_completion_queue *queue, uint64_t tag) {
    return grpc_server_request_call(server, &slot->call, &slot->details, &slot->metadata, queue, queue,
                                    (void *)(uintptr_t)tag);
}

static inline grpc_op ksw_receive_close(ksw_server_slot *slot) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &slot->was_cancelled;
    return op;
}

/// Asks to be told when the call is over, one way or the other: the only sign of cancellation.
static inline grpc_call_error ksw_watch_close(ksw_server_slot *slot, uint64_t tag) {
    grpc_op op = ksw_receive_close(slot);
    return grpc_call_start_batch(slot->call, &op, 1, (void *)(uintptr_t)tag, NULL);
}

/// Answers the call. Takes over `reply` (malloc, or NULL for a failure): C-core wipes and frees it after the write. With
/// `and_close` the tag comes back when the call is over, without it when the answer is sent: C-core wants to be asked for the
/// call's end once, and one batch is cheaper than two.
static inline grpc_call_error ksw_reply(ksw_server_slot *slot, int code, const char *details, size_t details_length,
                                        void *reply, size_t reply_length, int and_close, uint64_t tag) {
    grpc_op ops[4];
    size_t count = 0;
    grpc_slice text = grpc_slice_from_copied_buffer(details, details_length);
    grpc_byte_buffer *message = NULL;
    memset(ops, 0, sizeof ops);
    ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
    if (code == GRPC_STATUS_OK) {
        grpc_slice slice = grpc_slice_new_with_len(reply, reply_length, ksw_wipe_and_free);
        message = grpc_raw_byte_buffer_create(&slice, 1);
        grpc_slice_unref(slice);
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        ops[count++].data.send_message.send_message = message;
    } else {
        ksw_wipe_and_free(reply, reply_length);
    }
    ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[count].data.send_status_from_server.status = (grpc_status_code)code;
    ops[count++].data.send_status_from_server.status_details = details_length > 0 ? &text : NULL;
    if (and_close) ops[count++] = ksw_receive_close(slot);
    grpc_call_error error = grpc_call_start_batch(slot->call, ops, count, (void *)(uintptr_t)tag, NULL);
    if (message != NULL) grpc_byte_buffer_destroy(message);  // start_batch has taken the slices out
    grpc_slice_unref(text);
    return error;
}

/// Nanoseconds until `deadline` (a monotonic instant of C-core), saturated: INT64_MAX for a call without one.
static inline int64_t ksw_nanoseconds_until(gpr_timespec deadline) {
    if (deadline.tv_sec == INT64_MAX) return INT64_MAX;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    if (left.tv_sec > INT64_MAX / 2000000000) return INT64_MAX;
    if (left.tv_sec < INT64_MIN / 2000000000) return INT64_MIN;
    return left.tv_sec * 1000000000 + left.tv_nsec;
}

// --- waking the queue ---

/// A call that can never do anything; an empty batch on it completes at once. The C API of 1.51 has no alarm.
static inline grpc_call *ksw_waker_new(grpc_completion_queue *queue) {
    grpc_channel *lame = grpc_lame_client_channel_create(NULL, GRPC_STATUS_UNAVAILABLE, "waker");
    grpc_call *call =
        grpc_channel_create_call(lame, NULL, GRPC_PROPAGATE_DEFAULTS, queue, grpc_slice_from_static_string("/wake"), NULL,
                                 gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_channel_destroy(lame);
    return call;
}

static inline grpc_call_error ksw_wake(grpc_call *waker, uint64_t tag) {
    return grpc_call_start_batch(waker, NULL, 0, (void *)(uintptr_t)tag, NULL);
}

// --- client calls ---

/// One unary call: everything its batch writes into.
typedef struct ksw_client_call {
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *reply;
    grpc_status_code status;
    grpc_slice details;
} ksw_client_call;

static inline void ksw_client_call_free(ksw_client_call *call) {
    if (call->reply != NULL) {
        ksw_wipe_byte_buffer(call->reply);
        grpc_byte_buffer_destroy(call->reply);
    }
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_call_unref(call->call);
    free(call);
}

/// Starts one unary call with one tag; takes over `body` (malloc). NULL if C-core refuses the batch.
static inline ksw_client_call *ksw_client_call_start(grpc_channel *channel, grpc_completion_queue *queue,
                                                     const char *path, void *body, size_t body_length,
                                                     int64_t timeout_nanoseconds, int waits_for_ready, uint64_t tag) {
    ksw_client_call *call = calloc(1, sizeof *call);
    if (call == NULL) abort();
    gpr_timespec deadline = timeout_nanoseconds == INT64_MAX
                                ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                                : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                               gpr_time_from_nanos(timeout_nanoseconds, GPR_TIMESPAN));
    grpc_slice method = grpc_slice_from_copied_string(path);
    call->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    call->details = grpc_empty_slice();
    grpc_slice slice = grpc_slice_new_with_len(body, body_length, ksw_wipe_and_free);
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    grpc_op ops[6];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    if (waits_for_ready) ops[0].flags |= GRPC_INITIAL_METADATA_WAIT_FOR_READY;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = message;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &call->reply;
    ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[5].data.recv_status_on_client.status = &call->status;
    ops[5].data.recv_status_on_client.status_details = &call->details;
    grpc_call_error error = grpc_call_start_batch(call->call, ops, 6, (void *)(uintptr_t)tag, NULL);
    grpc_byte_buffer_destroy(message);
    if (error != GRPC_CALL_OK) {
        ksw_client_call_free(call);
        return NULL;
    }
    return call;
}

static inline const uint8_t *ksw_slice_start(const grpc_slice *slice) { return GRPC_SLICE_START_PTR(*slice); }
static inline size_t ksw_slice_length(const grpc_slice *slice) { return GRPC_SLICE_LENGTH(*slice); }

// --- servers and channels ---

static inline grpc_arg ksw_integer_argument(const char *key, int value) {
    grpc_arg argument;
    argument.type = GRPC_ARG_INTEGER;
    argument.key = (char *)key;  // a string literal; C-core copies the arguments anyway
    argument.value.integer = value;
    return argument;
}

static inline grpc_server *ksw_server_create(int message_bytes, int streams_per_connection) {
    grpc_arg arguments[] = {
        ksw_integer_argument(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, message_bytes),
        ksw_integer_argument(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, message_bytes),
        ksw_integer_argument(GRPC_ARG_MAX_CONCURRENT_STREAMS, streams_per_connection),
        ksw_integer_argument(GRPC_ARG_ENABLE_CHANNELZ, 0),
        // Identity only: C-core inflates before it looks at the size, so a compressed message could be a bomb.
        ksw_integer_argument(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
    };
    grpc_channel_args list = {sizeof arguments / sizeof *arguments, arguments};
    return grpc_server_create(&list, NULL);
}

/// A channel to `target`. `server_name` overrides the name expected in a TLS certificate; NULL for none.
static inline grpc_channel *ksw_channel_create(const char *target, grpc_channel_credentials *credentials,
                                               int message_bytes, const char *server_name) {
    grpc_arg arguments[] = {
        ksw_integer_argument(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, message_bytes),
        ksw_integer_argument(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, message_bytes),
        ksw_integer_argument(GRPC_ARG_ENABLE_CHANNELZ, 0),
        // A channel of its own: a shared one would hide a broken connection behind another's health.
        ksw_integer_argument(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        ksw_integer_argument(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        {GRPC_ARG_STRING, (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, {.string = (char *)server_name}},
    };
    size_t count = sizeof arguments / sizeof *arguments;
    grpc_channel_args list = {server_name == NULL ? count - 1 : count, arguments};
    return grpc_channel_create(target, credentials, &list);
}

#endif
