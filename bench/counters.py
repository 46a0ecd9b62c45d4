"""Counts the instructions that a process and its threads and children execute in user mode: `perf stat -e
instructions:u -p PID`, but with a value at any moment.

Wall time on a busy host says little about a small change; instruction counts do.
"""
import ctypes
import os
import platform
import struct

PERF_EVENT_OPEN = 298  # x86-64
HARDWARE, INSTRUCTIONS = 0, 1
ATTRIBUTES_SIZE = 112
# Bits of the attributes: also for threads and children to come; not in the kernel; not in a hypervisor.
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6

library = ctypes.CDLL(None, use_errno=True)


def open_counter(thread, kind=HARDWARE, event=INSTRUCTIONS):
    """A file descriptor; reading 8 bytes of it gives the count. OSError where there is no such counter."""
    attributes = struct.pack("<IIQQQQQ", kind, ATTRIBUTES_SIZE, event, 0, 0, 0,
                             INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR).ljust(ATTRIBUTES_SIZE, b"\0")
    descriptor = library.syscall(PERF_EVENT_OPEN, attributes, thread, -1, -1, 8)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


class Counter:
    """The instructions of process `pid` from now on; threads it has already are found."""

    def __init__(self, pid, **event):
        self.descriptors = []
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                self.descriptors.append(open_counter(int(thread), **event))
        except OSError:
            pass

    def read(self):
        return sum(struct.unpack("<Q", os.read(descriptor, 8))[0] for descriptor in self.descriptors)

    def close(self):
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def unavailable():
    """Why this machine counts no instructions, or None where it does."""
    if platform.machine() != "x86_64":
        return "not an x86-64 machine"
    try:
        os.close(open_counter(0))
    except OSError as error:
        return f"not available on this machine (perf_event_open: {error.strerror})"
    return None
