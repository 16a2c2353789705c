"""Fault switches: what goes wrong, for which calls, how often or how long; set and cleared while a fake runs."""

import asyncio
import contextlib
import random
import time

#: Each kind with its options and their defaults.
KINDS = {
    "latency": {"ms": 0, "jitter_ms": 0},
    "hang": {},
    "reset": {"at": "before"},
    "close": {},
    "truncate": {"bytes": None},
    "drip": {"bytes": 1, "interval_ms": 20},
    "error": {"code": 500, "status": None, "message": None, "retry_after": None},
    "throttle": {"retry_after": None},
    "expired_token": {},
    "clock_skew": {},
    "redirect": {"location": "http://127.0.0.1:9/"},
    "content": {"variant": "html"},
}
#: What narrows a fault down, and how long it lasts.
FILTERS = {
    "operation": None,
    "access_key": None,
    "key_id": None,
    "listener": None,
    "skip": 0,
    "times": None,
    "seconds": None,
    "probability": 1.0,
}
RESET_AT = ("before", "headers", "body")


class Fault:
    """One switch, on until it is removed, its `times` are used up or its `seconds` are over."""

    def __init__(self, number, document, generator):
        unknown = set(document) - {"kind"} - set(FILTERS) - set(KINDS.get(document.get("kind"), {}))
        if document.get("kind") not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}")
        if unknown:
            raise ValueError(f"{document['kind']} does not take {', '.join(sorted(unknown))}")
        self.number, self.kind = number, document["kind"]
        self.filters = {**FILTERS, **{name: document[name] for name in FILTERS if name in document}}
        self.options = {**KINDS[self.kind], **{name: document[name] for name in KINDS[self.kind] if name in document}}
        if self.kind == "reset" and self.options["at"] not in RESET_AT:
            raise ValueError(f"at is one of {', '.join(RESET_AT)}")
        operations = self.filters["operation"]
        self.operations = {operations} if isinstance(operations, str) else set(operations or ())
        self.left_out, self.left = self.filters["skip"], self.filters["times"]
        seconds = self.filters["seconds"]
        self.until = None if seconds is None else time.monotonic() + seconds
        self.generator = generator
        self.fired = 0
        self.removed = asyncio.Event()

    @property
    def delays(self):
        """Whether the call goes on afterwards, to its true answer or another fault."""
        return self.kind in ("latency", "hang")

    def describe(self):
        return {"id": self.number, "kind": self.kind, **self.filters, **self.options, "fired": self.fired}

    def fires(self, call):
        """Whether this call is hit; counts it if so."""
        if self.left == 0 or (self.until is not None and time.monotonic() >= self.until):
            return False
        if self.operations and call.operation not in self.operations:
            return False
        for name in ("access_key", "key_id", "listener"):
            if self.filters[name] is not None and self.filters[name] != getattr(call, name):
                return False
        if self.left_out > 0:
            self.left_out -= 1
            return False
        if self.filters["probability"] < 1 and self.generator.random() >= self.filters["probability"]:
            return False
        if self.left is not None:
            self.left -= 1
        self.fired += 1
        return True

    async def wait(self, arrived):
        """Holds a call that arrived at `arrived` (perf_counter)."""
        if self.kind == "latency":
            seconds = (self.options["ms"] + self.generator.random() * self.options["jitter_ms"]) / 1000
            await asyncio.sleep(max(0, arrived + seconds - time.perf_counter()))
        elif self.until is None:
            await self.removed.wait()
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.removed.wait(), max(0, self.until - time.monotonic()))


class Faults:
    """The switches that are set, in the order they were set."""

    def __init__(self, seed):
        self.generator = random.Random(seed)
        self.active = {}
        self.number = 0

    def add(self, document):
        self.number += 1
        fault = Fault(self.number, document, self.generator)
        self.active[fault.number] = fault
        return fault

    def remove(self, number):
        """Removes one and lets its held calls go on; KeyError when it is not there."""
        self.active.pop(number).removed.set()

    def clear(self):
        for number in [*self.active]:
            self.remove(number)

    def delays(self, call):
        """Every delay that hits the call."""
        return [fault for fault in self.active.values() if fault.delays and fault.fires(call)]

    def ending(self, call):
        """The first fault that decides how the call ends, or None."""
        for fault in self.active.values():
            if not fault.delays and fault.fires(call):
                return fault
        return None
