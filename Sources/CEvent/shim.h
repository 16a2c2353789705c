// libevent (Debian libevent-dev): evhttp serves the metrics and health endpoint; it brings no TLS library.
#ifndef KMSWARD_CEVENT_SHIM_H
#define KMSWARD_CEVENT_SHIM_H

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <event2/thread.h>

#endif
