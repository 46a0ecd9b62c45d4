"""The figures as a document (JSON), and that as a text table or Markdown, with what became of the targets."""
import math
import statistics

from workloads import (CPUID_EXIT, DEMO, EXITS, FEW_EXITS, L2_OVER_L1, MEMORY_ABOVE_RAM, TARGETS, WORKLOADS,
                       events)

TITLES = {"nestor": "Nestor", "before": "before", "qemu-tcg": "QEMU TCG", "qemu-mttcg": "QEMU MTTCG", "bochs": "Bochs",
          "native": "native"}


def document(bench, host):
    """Everything measured. cells: by cell, then peer: median, min and max of the chosen clock's seconds for the full
    size, and the single values."""
    figures = bench.figures
    cells = {}
    for name in bench.names:
        for cell, wall in figures.seconds[name].items():
            cpu = figures.cpu[name].get(cell)
            chosen = cpu if cpu and bench.arguments.clock == "cpu" else wall
            cells.setdefault(cell, {})[name] = {
                "median": statistics.median(chosen), "min": min(chosen), "max": max(chosen), "wall": wall, "cpu": cpu,
                "instructions": figures.instructions[name].get(cell)}
    arguments = bench.arguments
    return {
        "host": host, "peers": bench.names, "runs": arguments.runs, "runs_of": arguments.runs_of,
        "clock": arguments.clock, "sizes": {name: bench.sizes(name) for name in bench.names + ["full"]},
        "cells": cells,
        "wrong": {name: lines for name, lines in figures.wrong.items() if lines},
        "hung": {name: sorted(found) for name, found in figures.hung.items() if found},
        "skipped": {name: sorted(found) for name, found in figures.skipped.items() if found},
        "memory_above_ram": {name: max(values) for name, values in figures.overhead.items() if values},
    }


def median(document, cell, peer):
    """Seconds, or None. "qemu" is the faster of QEMU's two."""
    if peer == "qemu":
        found = [median(document, cell, name) for name in ("qemu-tcg", "qemu-mttcg")]
        return min((seconds for seconds in found if seconds is not None), default=None)
    figure = document["cells"].get(cell, {}).get(peer)
    return figure["median"] if figure else None


def number(value):
    """A figure with three digits that mean something."""
    if value >= 99.5:
        return f"{value:,.0f}"
    if value >= 9.95:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.2g}"


SECTIONS = [
    ("the demo's phases, s", [(text, cell, 1) for cell, text, _ in DEMO]),
    ("workloads in L1, s", [(w.text, f"{w.name} L1", 1) for w in WORKLOADS]),
    ("workloads in L2, s", [(w.text, f"{w.name} L2", 1) for w in WORKLOADS]),
    ("exits of L2, µs each", [(w.text, f"{w.name} L2", 1e6 / events(w)) for w in EXITS]),
    ("the same loops in L1, µs each", [(w.text.split(",")[0].split(":")[0], f"{w.name} L1", 1e6 / events(w))
                                       for w in EXITS]),
]


def cell_text(document, cell, name, factor):
    figure = document["cells"][cell].get(name)
    if figure is None:
        for state in ("hung", "skipped"):
            if cell in document[state].get(name, []):
                return "hung" if state == "hung" else "cannot"
        return ""
    text = number(figure["median"] * factor)
    if len(figure["wall"]) > 1:
        text += f" ±{(figure['max'] - figure['min']) / 2 / figure['median']:.0%}"
    base = median(document, cell, "nestor")
    # Ratios of next to nothing say nothing.
    if name != "nestor" and base and base > 0.01:
        text += f" ({number(figure['median'] / base)}×)"
    workload = cell.split()[0]
    sizes = document["sizes"][name]
    if sizes.get(workload, 1) != document["sizes"]["full"].get(workload, 1) and workload in sizes:
        text += " *"
    return text


def tables(document):
    """Lists of rows, the first of which is the head."""
    for title, entries in SECTIONS:
        found = [entry for entry in entries if entry[1] in document["cells"]]
        # A peer that has no figure in a section (native in L2) has no column there.
        peers = [name for name in document["peers"] if any(
            name in document["cells"][cell] or cell in document["hung"].get(name, []) for _, cell, _ in found)]
        if found:
            if document["clock"] == "cpu" and entries is SECTIONS[0][1]:
                title += " (by the clock)"
            yield [[title] + [TITLES[name] for name in peers]] + [
                [text] + [cell_text(document, cell, name, factor) for name in peers] for text, cell, factor in found]
    over = l2_over_l1(document)
    if over:
        peers = [name for name in document["peers"] if any(name in row for row in over.values())]
        yield [["L2 as a multiple of L1"] + [TITLES[name] for name in peers]] + [
            [workload.text] + [f"{over[workload.name][name]:.2f}" if name in over[workload.name] else "" for name in peers]
            for workload in WORKLOADS if workload.name in over]
    per_guest = host_instructions(document)
    if per_guest:
        peers = [name for name in document["peers"] if any(name in row for row in per_guest.values())]
        yield [["host instructions for one of a native run, L1"] + [TITLES[name] for name in peers]] + [
            [workload.text] + [number(per_guest[workload.name].get(name, 0)) for name in peers]
            for workload in WORKLOADS if workload.name in per_guest]
    rows = targets(document)
    if rows:
        yield [["target", "wanted", "slowest", "middle", "outcome"]] + rows


def l2_over_l1(document):
    """By workload, then peer: seconds in L2 over seconds in L1."""
    over = {}
    for name in FEW_EXITS:
        for peer in document["peers"]:
            upper, lower = median(document, f"{name} L1", peer), median(document, f"{name} L2", peer)
            if upper and lower:
                over.setdefault(name, {})[peer] = lower / upper
    return over


def host_instructions(document):
    """By workload, then peer: the host's user-mode instructions over those of the same workload run natively."""
    ratio = {}
    for workload in WORKLOADS:
        figures = document["cells"].get(f"{workload.name} L1", {})
        base = figures.get("native", {}).get("instructions")
        for peer, figure in figures.items():
            if base and figure["instructions"]:
                ratio.setdefault(workload.name, {})[peer] = (statistics.median(figure["instructions"])
                                                             / statistics.median(base))
    return ratio


def outcome(reached, wanted):
    """reached, wanted: by name, and a number; more is better. "met", or who missed it by how much."""
    missed = [f"{name.rpartition(' L')[0] or name} {wanted / value:.2f}×" for name, value in reached.items()
              if value < wanted]
    if not missed:
        return "met"
    if len(reached) == 1:
        return f"missed by {wanted / next(iter(reached.values())):.2f}×"
    return f"{len(reached) - len(missed)} of {len(reached)} met; short by: {', '.join(missed)}"


def middle(values):
    return math.exp(sum(math.log(value) for value in values) / len(values))


def targets(document):
    rows = []
    names = {"qemu": "QEMU TCG", "bochs": "Bochs", "native": "native"}
    for what, cells, peer, wanted in TARGETS:
        reached = {}
        for cell in cells:
            mine, theirs = median(document, cell, "nestor"), median(document, cell, peer)
            if mine and theirs:
                reached[cell] = theirs / mine
        if not reached:
            continue
        if wanted < 1:
            words = [f"at most {1 / wanted:g}× slower", f"{1 / min(reached.values()):.2f}×",
                     f"{1 / middle(reached.values()):.2f}×"]
        else:
            words = [f"{wanted:g}× faster", f"{min(reached.values()):.1f}×", f"{middle(reached.values()):.1f}×"]
        if len(reached) == 1:
            words[2] = ""
        rows.append([f"{what}, against {names[peer]}"] + words + [outcome(reached, wanted)])
    over = {name: row["nestor"] for name, row in l2_over_l1(document).items() if "nestor" in row}
    if over:
        rows.append(["L2 against the same in L1", f"at most {L2_OVER_L1 - 1:.0%} slower", f"{max(over.values()):.2f}×",
                     f"{middle(over.values()):.2f}×",
                     outcome({name: 1 / value for name, value in over.items()}, 1 / L2_OVER_L1)])
    exit_time = median(document, "cpuid L2", "nestor")
    if exit_time:
        each = exit_time / next(events(w) for w in EXITS if w.name == "cpuid")
        rows.append(["CPUID exit of L2", f"under {CPUID_EXIT * 1e6:.0f} µs", f"{each * 1e6:.2f} µs", "",
                     outcome({"cpuid": CPUID_EXIT / each}, 1)])
    memory = document["memory_above_ram"].get("nestor")
    if memory:
        rows.append(["memory above the guest's RAM", f"under {MEMORY_ABOVE_RAM} MB", f"{memory:.0f} MB", "",
                     outcome({"memory": MEMORY_ABOVE_RAM / memory}, 1)])
    return rows


def notes(document):
    host = document["host"]
    lines = [f"{host['cpu']}, {host['cores']} CPUs, Linux {host['kernel']}; {', '.join(host['versions'])}; {host['date']}.",
             ("Medians" if document["runs"] > 1 else "One run") + (" of CPU time" if document["clock"] == "cpu" else "")
             + (f" of {document['runs']} runs, the peers taking turns; ± is half the distance of the slowest from the"
                " fastest" if document["runs"] > 1 else "") + "; in brackets: how many times as long as Nestor."]
    full = document["sizes"]["full"]
    for name in document["peers"]:
        smaller = {f"{workload} 1/{full[workload] / size:.3g}" for workload, size in document["sizes"][name].items()
                   if size != full[workload]}
        if smaller:
            lines.append(f"* {TITLES[name]} was given less to do and its figures are scaled up to the full size: "
                         f"{', '.join(sorted(smaller))}.")
    lines.append(f"Host instructions: {host['counters'] or 'counted'}.")
    lines += [f"{TITLES[name]}: {runs} run{'s' if runs > 1 else ''} only." for name, runs in document["runs_of"].items()
              if name in document["peers"] and runs < document["runs"]]
    for name, megabytes in document["memory_above_ram"].items():
        lines.append(f"{TITLES[name]}: at most {megabytes:.0f} MB of memory besides the guest's RAM.")
    lines += [f"{TITLES[name]} cannot run: {', '.join(cells)}." for name, cells in document["skipped"].items()]
    for name, cells in document["hung"].items():
        lines.append(f"{TITLES[name]} hung or failed at least once in: {', '.join(cells)}.")
    for name, wrong in document["wrong"].items():
        lines += [f"{TITLES[name]}: {line}" for line in dict.fromkeys(wrong)]
    return lines


def text(document):
    out = []
    for rows in tables(document):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = rows[0][0] == "target"
        for row in rows:
            cells = [cell.ljust(width) if left else cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
            out.append("  ".join([row[0].ljust(widths[0])] + cells).rstrip())
        out.append("")
    return "\n".join(out + notes(document))


def markdown(document):
    out = []
    for rows in tables(document):
        align = "---|" if rows[0][0] == "target" else "---:|"
        out += ["| " + " | ".join(rows[0]) + " |", "|---|" + align * (len(rows[0]) - 1)]
        out += ["| " + " | ".join(row).replace("*", "\\*") + " |" for row in rows[1:]] + [""]
    return "\n".join(out + ["- " + line.replace("* ", "\\* ", 1) for line in notes(document)])
