// OpenSSL 3 libcrypto (Debian libssl-dev): the one cryptographic module. Shims for macros only.
#ifndef KMSWARD_COPENSSL_SHIM_H
#define KMSWARD_COPENSSL_SHIM_H

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#endif
