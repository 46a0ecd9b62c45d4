"""What is measured: the workloads of bench/guest, the phases of the demo's run, and the targets.

A cell is named "NAME LEVEL" as phases.py names it: "gzip L2". Its figure is seconds for the full size; where a peer got
a smaller size (a slow one), the seconds are scaled up in proportion.
"""
import collections

# size: of the full workload, in units of bench/guest/work. at_least: the smallest that means something. qemu: what QEMU's
# size is divided by, where the full one would take it minutes.
Workload = collections.namedtuple("Workload", "name text group size at_least qemu", defaults=[1])

WORKLOADS = [
    Workload("sha256", "sha256 of 64 MB", "compute", 64, 4),
    Workload("gzip", "gzip of 64 MB of text", "compute", 64, 2),
    Workload("sort", "sort of 1,000,000 lines", "compute", 1000, 50),
    Workload("compile", "4 compilations of stb_image_resize (gcc -O2)", "compute", 4, 1),
    Workload("sqlite", "SQLite session, 100,000 rows", "compute", 100000, 5000),
    Workload("matrix", "100 matrix products, SSE2", "float", 100, 5, 10),
    Workload("matrix_avx2", "200 matrix products, AVX2 and FMA", "float", 200, 10, 20),
    Workload("nbody", "n-body, 8,000,000 steps, scalar", "float", 8000, 400, 10),
    Workload("stream", "streaming over 8 GB of memory", "memory", 50, 3),
    Workload("chase", "10,000,000 dependent loads in 16 MB", "memory", 10, 1),
    Workload("spawn", "10,000 processes (fork, exec, exit)", "system", 10000, 300),
    Workload("faults", "200 × 8 MB mapped, touched, protected, unmapped", "system", 200, 10),
    Workload("pipes", "200,000 round trips over pipes", "system", 200000, 10000),
]
# Events that make an L2 exit, in an L2 of their own; `text` is one event.
EXITS = [
    Workload("cpuid", "CPUID, answered by L1's kernel", "exits", 50000, 5000),
    Workload("port", "OUT to a port, answered by L1's user space", "exits", 20000, 2000),
    Workload("touch", "a page that L2 had not used (EPT violation)", "exits", 256, 32),
    Workload("timer", "one-shot timer, its interrupt injected, a signal", "exits", 20000, 2000),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS + EXITS}
GROUPS = {"compute": "computing", "float": "floating point and SIMD", "memory": "memory", "system": "operating system"}


def events(workload):
    """How many events the full size of an exit workload is."""
    return workload.size * 256 if workload.name == "touch" else workload.size


# Phases of the demo's run, as cells.
DEMO = [
    ("first line L1", "start to L1's first line"),
    ("boot L1", "L1 kernel to init"),
    ("kvm L1", "L1 loads KVM"),
    ("first line L2", "L1 starts its VMM to L2's first line"),
    ("boot L2", "L2 kernel to init"),
    ("demo", "the whole demo"),
]
