// libcurl 7.88 (Debian libcurl4-openssl-dev), loaded when the first transport is made: with a local key alone nobody pays
// for it and the twenty libraries behind it. Then static-inline shims for what Swift cannot call: variadic functions, one per
// type of argument, and memory hooks. OpenSSL's headers only for what curl leaves to its user.
#ifndef KMSWARD_CCURL_H
#define KMSWARD_CCURL_H

// First: fd_set must look as it does in Swift's Glibc module, whatever later headers define.
#include <sys/select.h>

#define CURL_STRICTER  // handles are opaque pointers of their own, not void *
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <malloc.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// --- loading ---

#define KSW_CURL_CALLS(call)                                                                                           \
    call(easy_cleanup) call(easy_getinfo) call(easy_init) call(easy_setopt) call(easy_strerror)                        \
    call(global_init_mem) call(multi_add_handle) call(multi_cleanup) call(multi_info_read) call(multi_init)            \
    call(multi_perform) call(multi_poll) call(multi_remove_handle) call(multi_setopt) call(multi_wakeup)               \
    call(slist_append) call(slist_free_all)

/// libcurl's functions by their own names without `curl_`.
typedef struct ksw_curl_calls {
#define KSW_CURL_MEMBER(name) __typeof__(curl_##name) *name;
    KSW_CURL_CALLS(KSW_CURL_MEMBER)
#undef KSW_CURL_MEMBER
} ksw_curl_calls;

/// All null before ksw_curl_load() has succeeded, and constant after it.
extern ksw_curl_calls ksw_curl;

/// Loads libcurl, once; not at the same time from two threads. NULL, or why it cannot be, in the loader's words.
const char *ksw_curl_load(void);

// --- memory: what curl frees is wiped first, since requests, answers and tokens pass through it ---

static inline void ksw_curl_free(void *start) {
    if (start == NULL) return;
    size_t size = malloc_usable_size(start);
    memset(start, 0, size);
    __asm__ __volatile__("" : : "r"(start) : "memory");  // the compiler may not drop the memset before a free
    free(start);
}

static inline void *ksw_curl_realloc(void *start, size_t size) {
    if (start == NULL) return malloc(size);
    if (size == 0) {
        ksw_curl_free(start);
        return NULL;
    }
    // realloc(3) may move the bytes and leave the old ones behind.
    size_t had = malloc_usable_size(start);
    void *grown = malloc(size);
    if (grown == NULL) return NULL;
    memcpy(grown, start, had < size ? had : size);
    ksw_curl_free(start);
    return grown;
}

/// curl_global_init_mem(3) with wiping hooks.
static inline CURLcode ksw_curl_global_init(void) {
    return ksw_curl.global_init_mem(CURL_GLOBAL_DEFAULT, malloc, ksw_curl_free, ksw_curl_realloc, strdup, calloc);
}

// --- what needs no more than the call ---

static inline CURL *ksw_curl_easy_init(void) { return ksw_curl.easy_init(); }
static inline void ksw_curl_easy_cleanup(CURL *easy) { ksw_curl.easy_cleanup(easy); }
static inline const char *ksw_curl_easy_strerror(CURLcode code) { return ksw_curl.easy_strerror(code); }
static inline struct curl_slist *ksw_curl_slist_append(struct curl_slist *list, const char *text) {
    return ksw_curl.slist_append(list, text);
}
static inline void ksw_curl_slist_free_all(struct curl_slist *list) { ksw_curl.slist_free_all(list); }
static inline CURLM *ksw_curl_multi_init(void) { return ksw_curl.multi_init(); }
static inline CURLMcode ksw_curl_multi_cleanup(CURLM *multi) { return ksw_curl.multi_cleanup(multi); }
static inline CURLMcode ksw_curl_multi_add_handle(CURLM *multi, CURL *easy) {
    return ksw_curl.multi_add_handle(multi, easy);
}
static inline CURLMcode ksw_curl_multi_remove_handle(CURLM *multi, CURL *easy) {
    return ksw_curl.multi_remove_handle(multi, easy);
}
static inline CURLMcode ksw_curl_multi_perform(CURLM *multi, int *running) {
    return ksw_curl.multi_perform(multi, running);
}
static inline CURLMcode ksw_curl_multi_poll(CURLM *multi, int milliseconds) {
    return ksw_curl.multi_poll(multi, NULL, 0, milliseconds, NULL);
}
static inline CURLMcode ksw_curl_multi_wakeup(CURLM *multi) { return ksw_curl.multi_wakeup(multi); }

// --- curl_easy_setopt(3) ---

static inline CURLcode ksw_curl_set_long(CURL *easy, CURLoption option, long value) {
    return ksw_curl.easy_setopt(easy, option, value);
}
static inline CURLcode ksw_curl_set_size(CURL *easy, CURLoption option, int64_t value) {
    return ksw_curl.easy_setopt(easy, option, (curl_off_t)value);
}
/// curl copies the text; NULL takes an option back.
static inline CURLcode ksw_curl_set_text(CURL *easy, CURLoption option, const char *value) {
    return ksw_curl.easy_setopt(easy, option, value);
}
/// curl borrows the list until the transfer's end.
static inline CURLcode ksw_curl_set_list(CURL *easy, CURLoption option, struct curl_slist *value) {
    return ksw_curl.easy_setopt(easy, option, value);
}
static inline CURLcode ksw_curl_set_pointer(CURL *easy, CURLoption option, void *value) {
    return ksw_curl.easy_setopt(easy, option, value);
}
/// For CURLOPT_WRITEFUNCTION, CURLOPT_HEADERFUNCTION and CURLOPT_READFUNCTION, whose signatures are the same.
static inline CURLcode ksw_curl_set_transfer_callback(CURL *easy, CURLoption option, curl_write_callback callback) {
    return ksw_curl.easy_setopt(easy, option, callback);
}
static inline CURLcode ksw_curl_set_seek_callback(CURL *easy, curl_seek_callback callback) {
    return ksw_curl.easy_setopt(easy, CURLOPT_SEEKFUNCTION, callback);
}
static inline CURLcode ksw_curl_set_prerequest_callback(CURL *easy, curl_prereq_callback callback) {
    return ksw_curl.easy_setopt(easy, CURLOPT_PREREQFUNCTION, callback);
}

/// For CURLOPT_SSL_CTX_FUNCTION. OpenSSL's record buffer keeps the last plaintext it passed on, unless told otherwise.
static inline void ksw_tls_wipe_plaintext(void *context) {
    SSL_CTX_set_options((SSL_CTX *)context, SSL_OP_CLEANSE_PLAINTEXT);
}
/// Fails where curl is not built on OpenSSL.
static inline CURLcode ksw_curl_set_tls_callback(CURL *easy, curl_ssl_ctx_callback callback) {
    return ksw_curl.easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, callback);
}

/// When the certificate that the peer of this transfer's connection has shown ends, seconds since 1970; 0 where there is none.
/// To be asked while the transfer is under way.
static inline int64_t ksw_curl_certificate_end(CURL *easy) {
    struct curl_tlssessioninfo *session = NULL;
    if (ksw_curl.easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &session) != CURLE_OK || session == NULL) return 0;
    if (session->backend != CURLSSLBACKEND_OPENSSL || session->internals == NULL) return 0;
    X509 *certificate = SSL_get0_peer_certificate((const SSL *)session->internals);
    struct tm time;
    if (certificate == NULL || ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1) return 0;
    return (int64_t)timegm(&time);
}

static inline int ksw_prepare_socket(void *user_timeout_ms, curl_socket_t socket, curlsocktype purpose) {
    (void)purpose;
    unsigned int limit = (unsigned int)(uintptr_t)user_timeout_ms;
    // 18 is TCP_USER_TIMEOUT: netinet/tcp.h does not go together with Swift's Glibc module. Best effort.
    (void)setsockopt(socket, 6, 18, &limit, sizeof limit);
    return CURL_SOCKOPT_OK;
}
/// Ends connections whose peer has acknowledged nothing for so long: they are dead, whoever waits on them.
static inline CURLcode ksw_curl_limit_silence(CURL *easy, unsigned int milliseconds) {
    CURLcode code = ksw_curl.easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, ksw_prepare_socket);
    if (code != CURLE_OK) return code;
    return ksw_curl.easy_setopt(easy, CURLOPT_SOCKOPTDATA, (void *)(uintptr_t)milliseconds);
}

// --- curl_easy_getinfo(3), curl_multi_setopt(3), messages; 0 where there is nothing to tell ---

static inline long ksw_curl_get_long(CURL *easy, CURLINFO info) {
    long value = 0;
    return ksw_curl.easy_getinfo(easy, info, &value) == CURLE_OK ? value : 0;
}
static inline uintptr_t ksw_curl_get_private(CURL *easy) {
    char *value = NULL;
    return ksw_curl.easy_getinfo(easy, CURLINFO_PRIVATE, &value) == CURLE_OK ? (uintptr_t)value : 0;
}
static inline CURLMcode ksw_curl_multi_set_long(CURLM *multi, CURLMoption option, long value) {
    return ksw_curl.multi_setopt(multi, option, value);
}
/// The next transfer that has ended, or NULL; its result goes to `code`.
static inline CURL *ksw_curl_next_ended(CURLM *multi, CURLcode *code) {
    int left = 0;
    CURLMsg *message;
    while ((message = ksw_curl.multi_info_read(multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) continue;
        *code = message->data.result;
        return message->easy_handle;
    }
    return NULL;
}

#endif
