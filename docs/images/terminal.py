#!/usr/bin/env python3
"""A terminal's screen as an SVG. To make an image of the documents anew, with what it shows on the screen of a tmux:

    tmux capture-pane -e -p -t SESSION | docs/images/terminal.py > docs/images/get.svg
"""

import re
import sys
from html import escape

ROW, COLUMN, MARGIN = 18, 8.43, 14
PLAIN, BACKGROUND = "#d4d4d4", "#1e1e1e"
COLOURS = {31: "#f14c4c", 32: "#23d18b", 33: "#f5f543", 34: "#3b8eea", 35: "#d670d6", 36: "#29b8db"}


def spans(line, style):
    """The parts of a line, each with how it looks; `style` is what the line before it left."""
    first, *rest = re.split(r"\x1b\[([0-9;]*)m", line)
    if first:
        yield first, dict(style)
    for codes, text in zip(rest[::2], rest[1::2]):
        for code in (int(code or 0) for code in codes.split(";")):
            if code == 0:
                style.clear()
            elif code == 1:
                style["font-weight"] = "bold"
            elif code == 2:
                style["opacity"] = "0.6"
            elif code == 39:
                style.pop("fill", None)
            elif code in COLOURS:
                style["fill"] = COLOURS[code]
        if text:
            yield text, dict(style)


lines = sys.stdin.read().rstrip().split("\n")
width = max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines) * COLUMN + 2 * MARGIN
height = len(lines) * ROW + 2 * MARGIN
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">')
print(f'<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>')
print(f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="{PLAIN}" xml:space="preserve">')
style = {}
for number, line in enumerate(lines):
    column, y = 0, MARGIN + number * ROW + 13
    for text, look in spans(line, style):
        attributes = "".join(f' {name}="{value}"' for name, value in look.items())
        x, length = MARGIN + column * COLUMN, len(text) * COLUMN
        print(f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}"{attributes}>{escape(text)}</text>')
        column += len(text)
print("</g>\n</svg>")
