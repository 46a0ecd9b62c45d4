"""The figures as a document (JSON), as a text table and as Markdown."""
import statistics

from workloads import DEMO, EXITS, WORKLOADS, events


def document(bench):
    figures = bench.figures
    cells = {}
    for name in bench.names:
        for cell, seconds in figures.seconds[name].items():
            cpu = figures.cpu[name].get(cell)
            chosen = cpu if cpu and bench.arguments.clock == "cpu" else seconds
            cells.setdefault(cell, {})[name] = {
                "median": statistics.median(chosen), "min": min(chosen), "max": max(chosen), "wall": seconds, "cpu": cpu}
    return {"peers": bench.names, "runs": bench.arguments.runs, "scale": bench.arguments.scale, "cells": cells,
            "wrong": {name: lines for name, lines in figures.wrong.items() if lines},
            "hung": {name: sorted(found) for name, found in figures.hung.items() if found},
            "memory_above_ram": {name: max(values) for name, values in figures.overhead.items() if values}}


def rows(document):
    """(section, text, cell, factor): factor turns a cell's seconds into what is shown."""
    cells = document["cells"]
    for section, entries in (
            ("the demo's phases, s", [(text, cell, 1) for cell, text in DEMO]),
            ("in L1, s", [(w.text, f"{w.name} L1", 1) for w in WORKLOADS]),
            ("in L2, s", [(w.text, f"{w.name} L2", 1) for w in WORKLOADS]),
            ("exits of L2, µs each", [(w.text, f"{w.name} L2", 1e6 / events(w)) for w in EXITS])):
        found = [entry for entry in entries if entry[1] in cells]
        if found:
            yield section, None, None, None
            for text, cell, factor in found:
                yield section, text, cell, factor


def shown(value):
    return f"{value:.2f}" if value < 99.5 else f"{value:.0f}"


def cell_text(document, cell, name, factor):
    figure = document["cells"][cell].get(name)
    if figure is None:
        return "hung" if cell in document["hung"].get(name, []) else "–"
    text = shown(figure["median"] * factor)
    base = document["cells"][cell].get("nestor")
    if name != "nestor" and base:
        text += f" ({figure['median'] / base['median']:.2f}×)"
    return text


def table(document):
    lines = []
    for section, text, cell, factor in rows(document):
        if text is None:
            lines.append([section] + document["peers"])
        else:
            lines.append([text] + [cell_text(document, cell, name, factor) for name in document["peers"]])
    return lines


def notes(document):
    lines = []
    for name, megabytes in document["memory_above_ram"].items():
        lines.append(f"{name}: {megabytes:.0f} MB of memory besides the guest's RAM at most")
    for name, wrong in document["wrong"].items():
        lines += [f"{name}: {line}" for line in wrong]
    return lines


def text(document):
    lines = table(document)
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(1 + len(document["peers"]))]
    out = []
    for line in lines:
        if line[1:] == document["peers"]:
            out.append("")
        out.append(line[0].ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(line[1:], widths[1:])))
    return "\n".join(out + [""] + notes(document))


def markdown(document):
    out = []
    for line in table(document):
        if line[1:] == document["peers"]:
            out += ["", "| " + " | ".join(line) + " |", "|---|" + "---:|" * len(document["peers"])]
        else:
            out.append("| " + " | ".join(line) + " |")
    return "\n".join(out + [""] + [f"- {line}" for line in notes(document)])
