"""What is measured: the workloads of bench/guest, the phases of the demo's run, and the targets.

A cell is named "NAME LEVEL" as phases.py names it: "gzip L2". Its figure is seconds for the full size; where a peer got
a smaller size (a slow one), the seconds are scaled up in proportion.
"""
import collections

# size: of the full workload, in units of bench/guest/work. about: Nestor's seconds for it, roughly. at_least: the
# smallest size that means something. qemu: what QEMU's size is divided by, where the full one would take it minutes.
Workload = collections.namedtuple("Workload", "name text group size about at_least qemu", defaults=[1])

WORKLOADS = [
    Workload("sha256", "sha256 of 64 MB", "compute", 64, 0.5, 4),
    Workload("gzip", "gzip of 64 MB of text", "compute", 64, 7, 2),
    Workload("sort", "sort of 1,000,000 lines", "compute", 1000, 2, 50),
    Workload("compile", "4 × gcc -O2 of stb_image_resize.h", "compute", 4, 8, 1),
    Workload("sqlite", "SQLite session, 100,000 rows", "compute", 100000, 3, 5000),
    Workload("matrix", "100 matrix products, SSE2", "float", 100, 0.6, 5, 10),
    Workload("matrix_avx2", "200 matrix products, AVX2 and FMA", "float", 200, 0.5, 10, 20),
    Workload("nbody", "n-body, 8,000,000 steps, scalar SSE2", "float", 8000, 0.7, 400, 10),
    Workload("stream", "streaming over 8 GB of memory", "memory", 50, 0.5, 3),
    Workload("chase", "10,000,000 dependent loads in 16 MB", "memory", 10, 0.5, 1),
    Workload("spawn", "10,000 processes: fork, exec, exit", "system", 10000, 10, 300),
    Workload("faults", "200 × 8 MB mapped, touched, unmapped", "system", 200, 1, 10),
    Workload("pipes", "200,000 round trips over pipes", "system", 200000, 1.5, 10000),
]
# Events that make an L2 exit, in an L2 of their own; `text` is one event. The same loops run in L1 too, where nothing
# exits, for comparison.
EXITS = [
    Workload("cpuid", "CPUID, answered by L1's kernel", "exits", 200000, 0.5, 5000),
    Workload("port", "OUT to a port, answered by L1's user space", "exits", 50000, 0.5, 2000),
    Workload("touch", "first use of a page of L2's memory: EPT violation", "exits", 256, 1, 32),
    Workload("timer", "one-shot timer: armed, expired, injected", "exits", 20000, 0.5, 2000),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS + EXITS}
GROUPS = {"compute": "computing", "float": "floating point, SIMD", "memory": "memory", "system": "operating system"}


def events(workload):
    """How many events the full size of an exit workload is."""
    return workload.size * 256 if workload.name == "touch" else workload.size


# Phases of the demo's run, as cells, and Nestor's seconds, roughly.
DEMO = [
    ("first line L1", "start to L1's first line", 0.6),
    ("boot L1", "L1 kernel to init", 0.5),
    ("kvm L1", "L1 loads KVM", 0.1),
    ("first line L2", "L1 starts its VMM to L2's first line", 1.6),
    ("boot L2", "L2 kernel to init", 0.6),
    ("demo", "the whole demo", 3.4),
]
# How many times as long as Nestor a peer takes, roughly: for the time estimate of the first run only.
SLOWER = {"nestor": 1, "before": 1, "native": 0.3, "qemu-tcg": 5, "qemu-mttcg": 5, "bochs": 45}

# Level 2 of these against level 1; all of them make few exits.
FEW_EXITS = [workload.name for workload in WORKLOADS]


def of_group(*groups):
    return [f"{workload.name} L1" for workload in WORKLOADS if workload.group in groups]


# The targets: (what, cells, against, at least this many times as fast as that peer).
TARGETS = [
    ("compute in L1", of_group("compute"), "qemu", 5),
    ("compute in L1", of_group("compute"), "bochs", 20),
    ("compute in L1", of_group("compute"), "native", 1 / 2.5),
    ("floating point, SIMD in L1", of_group("float"), "qemu", 8),
    ("floating point, SIMD in L1", of_group("float"), "bochs", 20),
    ("floating point, SIMD in L1", of_group("float"), "native", 1 / 2),
    ("L1 kernel to init", ["boot L1"], "qemu", 3),
    ("L1 kernel to init", ["boot L1"], "bochs", 10),
    ("processes, faults, switches in L1", of_group("system"), "qemu", 3),
    ("processes, faults, switches in L1", of_group("system"), "bochs", 10),
    ("CPUID exit of L2", ["cpuid L2"], "qemu", 20),
    ("CPUID exit of L2", ["cpuid L2"], "bochs", 10),
    ("the whole demo", ["demo"], "qemu", 5),
    ("the whole demo", ["demo"], "bochs", 20),
]
L2_OVER_L1 = 1.08
CPUID_EXIT = 6e-6  # seconds
MEMORY_ABOVE_RAM = 160  # MB
