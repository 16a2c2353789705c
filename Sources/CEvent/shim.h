// libevent (Debian libevent-dev): evhttp serves the metrics and health endpoint; it brings no TLS library.
#ifndef KMSWARD_CEVENT_SHIM_H
#define KMSWARD_CEVENT_SHIM_H

// Before event-config.h defines _GNU_SOURCE: fd_set must look as it does in Swift's Glibc module.
#include <sys/select.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <event2/thread.h>

#endif
