"""Whether the machine was there for a test: for those few whose outcome depends on when the daemon gets a processor."""

import functools
import os
import pathlib
import resource

#: Share of the machine's processor time that others may take before a failure says more of them than of the daemon.
DISTURBED = 0.2
TRIES = 3


class Others:
    """What processes that are not ours take of the processors, from now on; what a host takes from a guest is theirs too."""

    def __init__(self):
        self.before = self._times()

    @staticmethod
    def _times():
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, idle, waiting, interrupts, soft, stolen = fields
        busy = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
        spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        ours = sum(usage.ru_utime + usage.ru_stime for usage in spent)
        return busy + (idle + waiting) / os.sysconf("SC_CLK_TCK"), busy - ours

    @property
    def share(self):
        (total, others), (total_before, others_before) = self._times(), self.before
        return (others - others_before) / max(total - total_before, 0.01)


def judged_undisturbed(test):
    """Repeats a failed test if others had much of the machine meanwhile; on a quiet one its first failure counts.

    The test must have ended and waited for its processes when it returns or raises: only then their time is known.
    """

    @functools.wraps(test)
    def judged(*args, **kwargs):
        for tries_left in reversed(range(TRIES)):
            others = Others()
            try:
                return test(*args, **kwargs)
            except AssertionError as failure:
                failure.add_note(f"others had {others.share:.0%} of the machine")
                if others.share < DISTURBED or not tries_left:
                    raise
        return None

    return judged
