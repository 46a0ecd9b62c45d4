"""Bar charts of the figures as SVG, readable on light and dark pages."""
import math
from xml.sax.saxutils import escape

import report
from workloads import EXITS, GROUPS, L2_OVER_L1, WORKLOADS, events

# Peers in the order of their bars, with a colour that is readable on both backgrounds.
COLOURS = {"native": "#3a9d5d", "nestor": "#2f6fde", "qemu": "#e08a1e", "bochs": "#a05ac8"}
TITLES = {"native": "native", "nestor": "Nestor", "qemu": "QEMU TCG", "bochs": "Bochs"}

STYLE = """
text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #24292f; font-size: 12px; }
.title { font-size: 15px; font-weight: 600; }
.group { font-weight: 600; }
.faint { fill: #6e7781; font-size: 11px; }
.page { fill: #ffffff; }
.line { stroke: #d0d7de; stroke-width: 1; }
.strong { stroke: #6e7781; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.faint { fill: #9198a1; }
.page { fill: #0d1117; }
.line { stroke: #3d444d; }
.strong { stroke: #9198a1; }
}
"""
WIDTH, LEFT, RIGHT, BAR, GAP = 940, 375, 60, 11, 9


class Drawing:
    """Collects elements from top to bottom."""

    def __init__(self, title, subtitle):
        self.parts, self.y = [], 26
        self.text(16, self.y, title, "title")
        self.y += 18
        self.text(16, self.y, subtitle, "faint")
        self.y += 14

    def text(self, x, y, text, kind="", anchor="start"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def bar(self, x1, x2, y, colour, title):
        x1, x2 = sorted((x1, x2))
        self.parts.append(f'<rect x="{x1:.1f}" y="{y:.1f}" width="{max(x2 - x1, 1):.1f}" height="{BAR}" rx="1.5" '
                          f'fill="{colour}"><title>{escape(title)}</title></rect>')

    def vertical(self, x, top, bottom, kind):
        self.parts.insert(0, f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" class="{kind}"/>')

    def legend(self, peers):
        x = LEFT
        for peer in peers:
            self.parts.append(f'<rect x="{x}" y="{self.y}" width="10" height="10" rx="1.5" fill="{COLOURS[peer]}"/>')
            self.text(x + 15, self.y + 9, TITLES[peer])
            x += 32 + 8 * len(TITLES[peer])
        self.y += 22

    def svg(self):
        height = self.y + 12
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
                f'viewBox="0 0 {WIDTH} {height:.0f}" role="img">\n<style>{STYLE}</style>\n'
                f'<rect class="page" width="100%" height="100%" rx="6"/>\n' + "\n".join(self.parts) + "\n</svg>")


def times(ratio):
    return report.number(ratio) + "×"


def ratio_chart(document, title, groups, note, show):
    """Bars from Nestor's line: to the right slower, to the left faster, on a logarithmic scale.

    groups: (heading, [(text, cell)]); show(cell, seconds): Nestor's own figure as text.
    """
    rows, peers, low, high = [], [], 0.5, 10
    for heading, entries in groups:
        found = []
        for text, cell in entries:
            base = report.median(document, cell, "nestor")
            ratios = {peer: report.median(document, cell, peer) / base for peer in COLOURS
                      if base and peer != "nestor" and report.median(document, cell, peer)}
            if ratios:
                found.append((text, show(cell, base), ratios))
                low, high = min([low] + list(ratios.values())), max([high] + list(ratios.values()))
        if found:
            rows.append((heading, found))
    if not rows:
        return None
    peers = [peer for peer in COLOURS if any(peer in ratios for _, found in rows for _, _, ratios in found)]
    low, high = math.log(low * 0.8), math.log(high * 1.1)

    def x(ratio):
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(ratio) - low) / (high - low)

    drawing = Drawing(title, note)
    drawing.legend(peers)
    top = drawing.y + 4
    drawing.y = top + 14
    for heading, found in rows:
        if heading:
            drawing.text(16, drawing.y + 10, heading, "group")
            drawing.y += 20
        for text, own, ratios in found:
            middle = drawing.y + (BAR + 1) * len(ratios) / 2 + 4
            drawing.text(LEFT - 62, middle, text, "", "end")
            drawing.text(LEFT - 8, middle, own, "faint", "end")
            for peer, ratio in ratios.items():
                drawing.bar(x(1), x(ratio), drawing.y, COLOURS[peer],
                            f"{text}, {TITLES[peer]}: {times(ratio)} Nestor's time")
                # A short bar to the left leaves room for its figure on its right, beyond Nestor's line.
                drawing.text(max(x(ratio), x(1)) + 4, drawing.y + 9.5, times(ratio), "faint")
                drawing.y += BAR + 1
            drawing.y += GAP
    bottom = drawing.y
    for decade in range(-3, 5):
        for step in (1, 2, 5):
            tick = step * 10.0 ** decade
            if low <= math.log(tick) <= high:
                drawing.vertical(x(tick), top + 10, bottom, "strong" if tick == 1 else "line")
                if step != 5 or high - low < 7:
                    drawing.text(x(tick), top + 5, f"{tick:g}" if tick != 1 else "Nestor", "faint", "middle")
    return drawing.svg()


def over_chart(document):
    """Nestor's L2 over its L1, on a linear scale."""
    over = [(workload.text, row["nestor"]) for workload in WORKLOADS
            if "nestor" in (row := report.l2_over_l1(document).get(workload.name, {}))]
    if not over:
        return None
    high = max([1.25] + [value for _, value in over]) * 1.02

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * value / high

    drawing = Drawing("Nestor: a workload in L2 against the same in L1",
                      "Time in L2 as a multiple of the time in L1; the dashed line is the target, 8 % slower.")
    top = drawing.y + 4
    drawing.y = top + 14
    for text, value in over:
        drawing.text(LEFT - 8, drawing.y + 9.5, text, "", "end")
        drawing.bar(x(0), x(value), drawing.y, COLOURS["nestor"], f"{text}: {value:.2f}")
        drawing.text(x(value) + 4, drawing.y + 9.5, f"{value:.2f}", "faint")
        drawing.y += BAR + GAP
    for step in range(0, int(high * 4) + 1):
        drawing.vertical(x(step / 4), top + 10, drawing.y, "strong" if step == 4 else "line")
        drawing.text(x(step / 4), top + 5, f"{step / 4:g}", "faint", "middle")
    drawing.parts.append(f'<line x1="{x(L2_OVER_L1):.1f}" y1="{top + 10}" x2="{x(L2_OVER_L1):.1f}" y2="{drawing.y}" '
                         'class="strong" stroke-dasharray="4 3"/>')
    return drawing.svg()


def charts(document):
    """File name to SVG, for what the document has figures of."""
    def seconds(cell, base):
        return report.number(base) + " s"

    def each(cell, base):
        return report.number(base * 1e6 / events(next(w for w in EXITS if cell.startswith(w.name + " ")))) + " µs"

    note = "Times as long as Nestor, logarithmic. Beside each name: Nestor's own time."
    if document["clock"] == "cpu":
        note += " Of CPU time."

    def groups(level):
        return [(heading, [(w.text, f"{w.name} {level}") for w in WORKLOADS if w.group == group])
                for group, heading in GROUPS.items()]

    demo = [("", [(text, cell) for text, cell, _ in report.SECTIONS[0][1]])]
    exits = [("", [(w.text, f"{w.name} L2") for w in EXITS])]
    drawn = {
        "demo.svg": ratio_chart(document, "Booting: KVM in a guest, and a guest in it", demo, note, seconds),
        "l1.svg": ratio_chart(document, "Workloads in L1, the guest", groups("L1"), note, seconds),
        "l2.svg": ratio_chart(document, "Workloads in L2, the guest's guest", groups("L2"), note, seconds),
        "exits.svg": ratio_chart(document, "What an exit of L2 to L1's hypervisor costs", exits, note, each),
        "l2-over-l1.svg": over_chart(document),
    }
    return {file: svg for file, svg in drawn.items() if svg}
