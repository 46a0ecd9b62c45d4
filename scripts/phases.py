"""Runs a machine whose guest is scripts/guest/init, shows its serial line level by level, and times its phases.

Everything is stamped with this host's clock when the line arrives, whatever emulator or hypervisor runs the guest.
"""
import math
import os
import re
import select
import signal
import subprocess
import sys
import time

# "quiet" would hide the kernel's first line, which is a phase; loglevel=6 shows notices and worse.
APPEND = "console=ttyS0 earlyprintk=serial,ttyS0,115200 loglevel=6 panic=-1"

MARK = re.compile(r"::L(\d) (\w+) ?(.*)")

# What the summaries show, in this order: name, text.
PHASES = [
    ("first line L1", "start to L1's first line"),
    ("boot L1", "L1 kernel to init"),
    ("kvm L1", "L1 loads KVM"),
    ("sha256 L1", "sha256 of 64 MB in L1"),
    ("loop L1", "20,000 shell loop turns in L1"),
    ("first line L2", "L1 starts its VMM to L2's first line"),
    ("boot L2", "L2 kernel to init"),
    ("kvm L2", "L2 loads KVM"),
    ("sha256 L2", "sha256 of 64 MB in L2"),
    ("loop L2", "20,000 shell loop turns in L2"),
    ("cpuid L2", "10,000 CPUID exits from L2"),
    ("first line L3", "L2 starts its VMM to L3's first line"),
    ("boot L3", "L3 kernel to init"),
    ("sha256 L3", "sha256 of 64 MB in L3"),
    ("loop L3", "20,000 shell loop turns in L3"),
    ("cpuid L3", "10,000 CPUID exits from L3"),
    ("total", "the whole run"),
]


class Outcome:
    """What one run came to. phase: seconds by name; wrong: what went wrong, empty where all went well.

    cpu: the same in seconds of this host's CPUs, all threads and ended children, which other work here disturbs less.
    instructions: the same in instructions of this host, where run() was given a counter.
    unfinished: phases that had begun when it ended; none where all went well.
    results: what a workload computed, by (level, workload); skipped: workloads that the CPU lacks something for.
    """

    def __init__(self):
        self.phase = {}
        self.cpu = {}
        self.instructions = {}
        self.results = {}
        self.skipped = set()
        self.unfinished = set()
        self.wrong = []
        self.reached = set()
        self.text = []

    def finished(self, levels):
        return not self.wrong and all(f"off L{level}" in self.reached for level in range(1, levels + 1))


def cpu_seconds(pid):
    """What a process's threads and its children that have ended used of this host's CPUs."""
    process_clock = ~pid << 3 | 2  # clock_getcpuclockid(3), which Python does not have
    try:
        own = time.clock_gettime(process_clock)
        with open(f"/proc/{pid}/stat") as stream:
            children = sum(int(field) for field in stream.read().rpartition(")")[2].split()[13:15])
    except OSError:
        return math.nan
    return own + children / os.sysconf("SC_CLK_TCK")


class Reader:
    """Follows one guest's serial line: which level speaks, and what the marks say."""

    def __init__(self, outcome, start, show, done=None, pid=None, counter=None):
        self.outcome, self.show, self.done, self.pid, self.counter = outcome, show, done, pid, counter
        self.cpu_since, self.count_since = {}, {}
        self.level = 1
        self.since = {"first line L1": start}

    def end(self, name, now):
        if name in self.since:
            self.outcome.phase[name] = now - self.since.pop(name)
            if name in self.cpu_since:
                spent = cpu_seconds(self.pid) - self.cpu_since.pop(name)
                if not math.isnan(spent):
                    self.outcome.cpu[name] = spent
            if name in self.count_since:
                self.outcome.instructions[name] = self.counter.read() - self.count_since.pop(name)
            if self.done:
                self.done(name, self.outcome.phase[name])

    def line(self, text, now):
        outcome = self.outcome
        outcome.text.append(text)
        mark = MARK.search(text)
        if mark is None:
            name = f"first line L{self.level}"
            if "Linux version" in text and name in self.since:
                self.end(name, now)
                self.since[f"boot L{self.level}"] = now
            if self.show:
                self.show(self.level, text)
            return
        level, what, value = int(mark[1]), mark[2], mark[3]
        name = f"{what} L{level}"
        if what == "init":
            name = f"boot L{level}"
            self.end(name, now)
            note = f"init runs; the kernel's clock says {value} s"
        elif what == "next":
            self.level = level + 1 if value == "begin" else level
            if value == "begin":
                self.since[f"first line L{level + 1}"] = now
            note = "starts the next level" if value == "begin" else "the next level has ended"
        elif what == "wrong":
            outcome.wrong.append(f"L{level}: {value}")
            note = "WRONG: " + value
        elif what == "off":
            outcome.reached.add(name)
            note = "powers off"
        elif what == "check":
            workload, _, result = value.partition(" ")
            outcome.results[level, workload] = result
            note = f"{workload} gave {result}"
        elif what == "skipped":
            outcome.skipped.add(f"{value} L{level}")
            self.since.pop(f"{value} L{level}", None)
            note = f"cannot run {value}"
        elif value == "begin":
            self.since[name] = now
            if self.pid:
                self.cpu_since[name] = cpu_seconds(self.pid)
            if self.counter:
                self.count_since[name] = self.counter.read()
            return
        else:
            self.end(name, now)
            note = f"{what}: {outcome.phase.get(name, 0):.2f} s"
        if self.show:
            self.show(level, "* " + note)


def run(command, limit, show=None, serial=None, ended=None, stall=None, done=None, watch=None,
        count=None):
    """Runs command for at most `limit` seconds. show(level, line) is called for every line as it comes.

    stall: seconds without a line after which it is taken to hang. done(name, seconds) is called for every phase that
    has ended, watch(pid) at the same times. count(pid): makes a counter of the process's instructions, with read() and
    close().

    serial: the master side of a terminal that carries the serial line instead of standard output; closed here. ended:
    a mark after which the command may be ended ("off L1"), and its status then means nothing: for an emulator that
    does not end well when its guest powers off.
    """
    outcome = Outcome()
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL if serial else subprocess.PIPE,
                               stderr=None if serial is None else subprocess.DEVNULL, start_new_session=True)
    source = serial if serial else process.stdout.fileno()
    counter = count(process.pid) if count else None
    reader = Reader(outcome, start, show, done, process.pid, counter)
    pending = b""
    heard = start
    try:
        while True:
            left = start + limit - time.monotonic()
            if left <= 0:
                outcome.wrong.append(f"not finished after {limit:.0f} s")
                break
            silent = time.monotonic() - heard
            # A kernel that boots says something every now and then.
            if stall and silent > (stall / 3 if any(name.startswith("boot") for name in reader.since) else stall):
                outcome.wrong.append(f"hung: silent for {silent:.0f} s" +
                                     (f" in {', '.join(sorted(reader.since))}" if reader.since else ""))
                break
            ready, _, _ = select.select([source], [], [], min(left, 0.2))
            now = time.monotonic()
            if ready:
                data = os.read(source, 65536)
                if not data:
                    break
                pending += data
                heard = now
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    # Firmware clears the screen; guests end lines with CR LF.
                    text = re.sub(r"\x1b[\[c][0-9;?=]*[A-Za-z]?", "", line.decode("latin-1")).strip("\r")
                    reader.line(text, now)
                    if watch and text.startswith("::") and text.endswith(" end"):
                        watch(process.pid)
            elif process.poll() is not None and serial:
                if ended not in outcome.reached:
                    outcome.wrong.append("ended before its guest did")
                break
            if ended and ended in outcome.reached:
                break
    except KeyboardInterrupt:
        outcome.wrong.append("interrupted")
    finally:
        if not (ended and ended in outcome.reached) and not outcome.wrong:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            if not ended and not outcome.wrong:
                outcome.wrong.append("did not end after its guest")
        status = process.wait()
        if counter:
            counter.close()
        if serial:
            os.close(source)
    if pending.strip():
        reader.line(pending.decode("latin-1").strip("\r"), time.monotonic())
    outcome.unfinished = set(reader.since)
    outcome.phase["total"] = time.monotonic() - start
    if status != 0 and not ended and not outcome.wrong:
        outcome.wrong.append(f"{os.path.basename(command[0])} ended with status {status}")
    return outcome


def shower(stream=sys.stdout):
    """A show function that prefixes each line with its level, coloured on a terminal."""
    colour = {1: "36", 2: "33", 3: "35"} if stream.isatty() else {}

    def show(level, text):
        prefix = f"L{level} |"
        if level in colour:
            prefix = f"\x1b[{colour[level]}m{prefix}\x1b[0m"
        print(f"{'  ' * (level - 1)}{prefix} {text}", file=stream, flush=True)

    return show
