// The floors that kmsward is compared with: libgrpc's C-core, one completion queue polled by one thread, each call
// answered inline with its own request. No decoding, no cryptography, no cancellation watch, no limits; with --crypto, also the
// cryptography of one envelope (docs/ciphertext-format.md, suite 1) by OpenSSL, and nothing else.
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
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

static EVP_CIPHER_CTX *gcm;  // NULL: echo only

// What opening an envelope costs: HKDF-SHA-512 with a salt of its own, one AES-256-GCM message of 32 bytes bound to 230.
// The bytes do not matter, so there is no message to check; kmsward compares the commitment and the tag besides.
static void open_envelope(void) {
    static const unsigned char key[32], nonce[12], info[84], head[230], sealed[32];
    static unsigned char salt[32];
    unsigned char prk[64], okm[64], opened[32];
    unsigned int length;
    int written;
    salt[0]++;
    if (!HMAC(EVP_sha512(), salt, sizeof salt, key, sizeof key, prk, &length) ||
        !HMAC(EVP_sha512(), prk, sizeof prk, info, sizeof info, okm, &length) ||
        !EVP_DecryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, okm, nonce) ||
        !EVP_DecryptUpdate(gcm, NULL, &written, head, sizeof head) ||
        !EVP_DecryptUpdate(gcm, opened, &written, sealed, sizeof sealed))
        abort();
}

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
    if (gcm != NULL) open_envelope();
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
    int crypto = count == 3 && strcmp(arguments[2], "--crypto") == 0;
    if (count != 2 && !crypto) {
        fprintf(stderr, "usage: ccore-echo SOCKET [--crypto]\n");
        return 64;
    }
    if (crypto && (gcm = EVP_CIPHER_CTX_new()) == NULL) abort();
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
