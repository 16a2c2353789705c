// libgrpc C-core 1.51 (Debian libgrpc-dev), and static-inline shims for what Swift cannot call:
// unions, macros, and batches of operations.
#ifndef KMSWARD_CGRPC_SHIM_H
#define KMSWARD_CGRPC_SHIM_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#endif
