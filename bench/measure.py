"""Runs the peers in turn and collects what they took."""
import os
import re
import shutil
import sys
import tempfile
import time

import counters
import peers
import phases
from workloads import BY_NAME, DEMO, SLOWER

# MiB of the demo's machine, as scripts/demo has it, and of the one that runs the workloads.
DEMO_MEMORY, MEMORY = 1024, 1536
DEMO_CELLS = [cell for cell, _, _ in DEMO]


class Progress:
    """Says on standard error what has been measured and about how long the rest takes.

    plan: the (peer, cell) to come, each as often as it comes; expected(peer, cell): seconds, roughly. The
    estimate is corrected by how long the cells done so far took.
    """

    def __init__(self, expected, plan):
        self.expected = {cell: expected(*cell) for cell in plan}
        self.all = sum(self.expected[cell] for cell in plan)
        self.passed = 0
        self.start = time.monotonic()

    def done(self, peer, cell, seconds=None):
        self.passed += self.expected.get((peer, cell), 0)
        share = min(self.passed / self.all, 1) if self.all else 1
        spent = time.monotonic() - self.start
        left = spent * (1 - share) / share if share else 0
        left = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        figure = "no figure" if seconds is None else f"{seconds:.2f} s"
        print(f"[{share:4.0%}, about {left} left] {peer}: {cell}: {figure}", file=sys.stderr, flush=True)


class Memory:
    """The most memory that a process held besides its guest's RAM, which is the mapping of about that size, in MB.

    What is mapped twice or shared counts in proportion.
    """

    def __init__(self, memory):
        self.ram = memory << 20
        self.most = None

    def __call__(self, pid):
        kilobytes, counts = 0, True
        try:
            with open(f"/proc/{pid}/smaps") as stream:
                for line in stream:
                    field, _, rest = line.partition(" ")
                    if re.match(r"[0-9a-f]+-[0-9a-f]+$", field):
                        first, last = (int(part, 16) for part in field.split("-"))
                        counts = not self.ram <= last - first < self.ram + (64 << 20)
                    elif field == "Pss:" and counts:
                        kilobytes += int(rest.split()[0])
        except OSError:
            return
        self.most = max(self.most or 0, kilobytes * 1024 / 1e6)


class Figures:
    """All that was measured, by peer and cell, one value for each run, for the full size of a workload.

    seconds: by the clock; cpu: of CPU time; instructions: of the host. results: what the first peer computed, by
    workload and size. hung, skipped: cells that a peer did not fill. overhead: MB besides the guest's RAM.
    """

    def __init__(self, names):
        self.seconds, self.cpu, self.instructions = ({name: {} for name in names} for _ in range(3))
        self.hung, self.skipped = ({name: set() for name in names} for _ in range(2))
        self.wrong, self.overhead = ({name: [] for name in names} for _ in range(2))
        self.results = {}

    def add(self, name, cell, seconds):
        self.seconds[name].setdefault(cell, []).append(seconds)

    def add_outcome(self, name, outcome, size):
        """What an outcome holds besides the times. Who computes something else than the first did is wrong."""
        for measured, figures in ((outcome.cpu, self.cpu), (outcome.instructions, self.instructions)):
            for cell, value in measured.items():
                workload = BY_NAME.get(cell.split()[0])
                if workload and workload.name in size:
                    value *= workload.size / size[workload.name]
                    figures[name].setdefault(cell, []).append(value)
        self.wrong[name] += outcome.wrong
        self.skipped[name] |= outcome.skipped
        for (level, workload), result in outcome.results.items():
            first_name, first_level, first = self.results.setdefault(workload, (name, level, result))
            if first != result:
                self.wrong[name].append(f"{workload} in L{level} gave {result}, "
                                        f"but on {first_name} in L{first_level} {first}")


class Bench:
    """arguments: of bench/run; names: the peers; workloads, exits: those chosen; cache: the folder of the guests."""

    def __init__(self, arguments, names, workloads, exits, cache):
        self.arguments, self.names, self.workloads, self.exits = arguments, names, workloads, exits
        self.cache = cache
        self.figures = Figures(names)
        self.peers = {"qemu-tcg": peers.qemu_tcg("single"), "qemu-mttcg": peers.qemu_tcg("multi"),
                      "bochs": peers.bochs}
        for name, binary in (("nestor", arguments.nestor), ("before", arguments.before)):
            if name in names:
                self.peers[name] = peers.nestor(os.path.abspath(binary))
        self.progress = None
        self.why_not_counted = counters.unavailable()

    def sizes(self, name):
        """What a peer is given to do, by workload; "full", which is no peer, gets all."""
        divisor = self.arguments.scale.get(name, 1)
        return {workload.name: max(workload.at_least, workload.size // divisor //
                                   (workload.qemu if name.startswith("qemu") else 1))
                for workload in self.workloads + self.exits}

    def plan(self, name):
        """The cells that a peer is to fill in one run."""
        loops = [] if name == "native" else self.exits
        cells = []
        if 1 in self.arguments.levels:
            cells += [f"{workload.name} L1" for workload in self.workloads + loops]
        if 2 in self.arguments.levels and name != "native":
            cells += [f"{workload.name} L2" for workload in self.exits + self.workloads]
        if self.arguments.demo and name != "native":
            cells += DEMO_CELLS
        return cells

    def expected(self, name, cell):
        """Seconds of a cell, roughly."""
        for phase, _, about in DEMO:
            if phase == cell:
                return about * SLOWER[name]
        workload = BY_NAME[cell.split()[0]]
        return workload.about * SLOWER[name] * self.sizes(name)[workload.name] / workload.size

    def filled(self, name, cell, seconds):
        self.figures.add(name, cell, seconds)
        self.progress.done(name, cell, seconds)

    def start(self, command, done, size, name, serial=None, ended=None, watch=None):
        show = phases.shower(sys.stderr) if self.arguments.show else None
        stall = self.arguments.stall * (4 if name == "bochs" else 1)
        outcome = phases.run(command, self.arguments.limit, show, serial, ended, stall, done, watch,
                             None if self.why_not_counted else counters.Counter)
        self.figures.add_outcome(name, outcome, size)
        if "interrupted" in outcome.wrong:
            raise KeyboardInterrupt
        return outcome

    def machine(self, name, machine, done, size):
        """One run of a machine."""
        work = tempfile.mkdtemp(prefix="nestor-bench-")
        memory = Memory(machine.memory)
        try:
            command, serial, ended = self.peers[name](machine, work)
            outcome = self.start(command, done, size, name, serial, ended, memory)
        finally:
            shutil.rmtree(work)
        if memory.most is not None:
            self.figures.overhead[name].append(memory.most)
        return outcome

    def demo(self, name):
        guest = os.path.join(self.cache, "guest")
        machine = peers.Machine(os.path.join(guest, "vmlinuz"), os.path.join(guest, "l1.cpio"), phases.APPEND,
                                DEMO_MEMORY)

        def done(cell, seconds):
            if cell in DEMO_CELLS:
                self.filled(name, cell, seconds)

        for _ in range(1 + self.arguments.retries):
            outcome = self.machine(name, machine, done, {})
            if outcome.finished(2):
                done("demo", outcome.phase["total"])
                return
            print(f"{name}: {', '.join(outcome.wrong) or 'a level did not come to its end'}", file=sys.stderr, flush=True)
        self.figures.hung[name].add("demo")

    def machine_workloads(self, name):
        """The workloads in L1, the exits in one L2, the workloads in another."""
        size = self.sizes(name)
        left = [cell for cell in self.plan(name) if cell not in DEMO_CELLS]
        parts = [("l1", 1, self.workloads + self.exits), ("exits", 2, self.exits), ("l2", 2, self.workloads)]

        def done(cell, seconds):
            if cell in left:
                left.remove(cell)
                workload = BY_NAME[cell.split()[0]]
                self.filled(name, cell, seconds * workload.size / size[workload.name])

        # One that hangs is started again for the rest.
        for attempt in range(1 + self.arguments.retries):
            append = phases.APPEND
            for word, level, group in parts:
                chosen = [f"{w.name}:{size[w.name]}" for w in group if f"{w.name} L{level}" in left]
                if chosen:
                    append += f" bench.{word}={','.join(chosen)}"
            machine = peers.Machine(os.path.join(self.cache, "debian", "vmlinuz"),
                                    os.path.join(self.cache, "bench", "l1.cpio"), append, MEMORY)
            outcome = self.machine(name, machine, done, size)
            left[:] = [cell for cell in left if cell not in outcome.skipped]
            if not outcome.wrong:
                break
            # What it hung in is not tried again. A boot that hung is.
            for cell in outcome.unfinished & set(left):
                left.remove(cell)
                self.figures.hung[name].add(cell)
                self.progress.done(name, cell)
            again = attempt < self.arguments.retries and left
            print(f"{name}: {outcome.wrong[-1]}; {len(left)} more to measure{', trying again' if again else ''}",
                  file=sys.stderr, flush=True)
            if not left:
                break
        self.figures.hung[name] |= set(left)

    def native(self):
        """The workloads in a chroot on this host: the same programs, in memory as in the guests."""
        sizes = self.sizes("native")
        size = {workload.name: sizes[workload.name] for workload in self.workloads}
        memory = "/dev/shm"
        usable = os.access(memory, os.W_OK) and not os.statvfs(memory).f_flag & os.ST_NOEXEC
        work = tempfile.mkdtemp(prefix="nestor-bench-", dir=memory if usable else None)

        def done(cell, seconds):
            workload = BY_NAME[cell.split()[0]]
            self.filled("native", cell, seconds * workload.size / size[workload.name])

        try:
            folder = os.path.join(work, "root")
            shutil.copytree(os.path.join(self.cache, "bench", "root"), folder, symlinks=True)
            enter = ["chroot", folder] if os.getuid() == 0 else ["unshare", "--map-root-user", f"--root={folder}"]
            words = ",".join(f"{name}:{count}" for name, count in size.items())
            self.start(enter + ["/work", "1", words], done, size, "native")
        finally:
            shutil.rmtree(work)

    def run(self):
        runs, less = self.arguments.runs, self.arguments.runs_of
        turns = [[name for name in self.names if turn < less.get(name, runs)] for turn in range(runs)]
        self.progress = Progress(self.expected, [(name, cell) for names in turns for name in names
                                                 for cell in self.plan(name)])
        for turn, names in enumerate(turns):
            for name in names:
                print(f"run {turn + 1} of {runs}: {name}", file=sys.stderr, flush=True)
                if name == "native":
                    if self.workloads and 1 in self.arguments.levels:
                        self.native()
                    continue
                if self.arguments.demo:
                    self.demo(name)
                if self.workloads or self.exits:
                    self.machine_workloads(name)
