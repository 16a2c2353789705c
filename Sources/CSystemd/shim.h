// libsystemd (Debian libsystemd-dev): sd_notify, watchdog, passed sockets, native journal fields.
#ifndef KMSWARD_CSYSTEMD_SHIM_H
#define KMSWARD_CSYSTEMD_SHIM_H

#include <systemd/sd-daemon.h>
// The SD_JOURNAL_SUPPRESS_LOCATION form: the location of a C shim would name the wrong line.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#endif
