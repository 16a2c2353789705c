// The floor that kmsward is compared with: libgrpc's C-core, one completion queue polled by one thread, each call
// answered inline with its own request. No decoding, no cryptography, no cancellation watch, no limits.
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 256 };
enum { ARRIVED = 0, SENT = 1 };

struct slot {
    int method;
    grpc_call *call;
    grpc_metadata_array metadata;
    grpc_byte_buffer *message;
    gpr_timespec deadline;
    int cancelled;
};

static const char *const paths[] = {
    "/v2.KeyManagementService/Encrypt",
    "/v2.KeyManagementService/Decrypt",
    "/v2.KeyManagementService/Status",
};
enum { METHODS = sizeof paths / sizeof *paths };

static grpc_server *server;
static grpc_completion_queue *queue;
static void *methods[METHODS];
static struct slot slots[METHODS * SLOTS];
static volatile sig_atomic_t stopping;

static void *tag(size_t slot, int kind) { return (void *)(slot << 1 | (size_t)kind); }

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static void arm(size_t index) {
    struct slot *s = &slots[index];
    s->call = NULL;
    s->message = NULL;
    grpc_metadata_array_init(&s->metadata);
    grpc_call_error error = grpc_server_request_registered_call(
        server, methods[s->method], &s->call, &s->deadline, &s->metadata, &s->message, queue, queue,
        tag(index, ARRIVED));
    if (error != GRPC_CALL_OK) abort();
}

static void answer(size_t index) {
    struct slot *s = &slots[index];
    grpc_op ops[4];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = s->message;
    ops[2].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[2].data.send_status_from_server.status = GRPC_STATUS_OK;
    ops[3].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[3].data.recv_close_on_server.cancelled = &s->cancelled;
    if (s->message == NULL) {  // the peer sent none
        ops[1] = ops[3];
        ops[2].data.send_status_from_server.status = GRPC_STATUS_INVALID_ARGUMENT;
    }
    grpc_call_error error = grpc_call_start_batch(s->call, ops, s->message ? 4 : 3, tag(index, SENT), NULL);
    if (error != GRPC_CALL_OK) abort();
}

static void release(size_t index) {
    struct slot *s = &slots[index];
    if (s->message) grpc_byte_buffer_destroy(s->message);
    if (s->call) grpc_call_unref(s->call);
    grpc_metadata_array_destroy(&s->metadata);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: ccore-echo SOCKET\n");
        return 64;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    char address[256];
    snprintf(address, sizeof address, "unix:%s", arguments[1]);
    grpc_init();
    queue = grpc_completion_queue_create_for_next(NULL);
    server = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(server, queue, NULL);
    for (int m = 0; m < METHODS; m++)
        methods[m] = grpc_server_register_method(server, paths[m], NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    if (!grpc_server_add_http2_port(server, address, credentials)) {
        fprintf(stderr, "cannot listen on %s\n", address);
        return 1;
    }
    grpc_server_start(server);
    for (size_t i = 0; i < METHODS * SLOTS; i++) {
        slots[i].method = (int)(i / SLOTS);
        arm(i);
    }
    // The wait is cut into pieces only so that a signal is seen; it costs two wake-ups a second.
    while (!stopping) {
        gpr_timespec soon = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(500, GPR_TIMESPAN));
        grpc_event event = grpc_completion_queue_next(queue, soon, NULL);
        if (event.type != GRPC_OP_COMPLETE) continue;
        size_t index = (size_t)event.tag >> 1;
        if (((size_t)event.tag & 1) == ARRIVED && event.success) {
            answer(index);
        } else {
            release(index);
            arm(index);
        }
    }
    return 0;
}
