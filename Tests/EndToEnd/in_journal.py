"""Runs a command beside a journald of its own: `unshare --mount ... python3 in_journal.py MODE DIRECTORY COMMAND...`

The mount namespace is the caller's business; in it /run is replaced, journald started alone, and the command put in
the place of this process, so signals reach it. Journal files stay in DIRECTORY. journald ends when the command does.
MODE `stream` connects standard error to the journal as systemd does; `plain` leaves it.
"""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1


def main(mode, directory, *command):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.makedirs("/run/systemd/journal")
    os.makedirs("/run/log/journal")
    subprocess.run(["mount", "--bind", directory, "/run/log/journal"], check=True)

    def dies_with_parent():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    journald = subprocess.Popen(
        ["/lib/systemd/systemd-journald"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=dies_with_parent,
        # journald would announce itself as ready where the command's word is waited for.
        env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
    )
    pathlib.Path(directory, "journald.pid").write_text(str(journald.pid))

    # Both sockets must take connections before the command looks for them.
    stream = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + 30
    while True:
        try:
            stream.connect("/run/systemd/journal/stdout")
            os.stat("/run/systemd/journal/socket")
            break
        except OSError:
            if time.monotonic() > end or journald.poll() is not None:
                sys.exit("journald does not start")
            time.sleep(0.02)

    if mode == "stream":
        # sd-journal's stream header: identifier, unit, priority, level prefix, and three forwards.
        stream.sendall(b"kmsward\n\n6\n0\n0\n0\n0\n")
        status = os.fstat(stream.fileno())
        os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        os.dup2(stream.fileno(), 2)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
