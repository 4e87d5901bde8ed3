"""HTML: figures in both themes, tables, and the page around them."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from alexnet_jax.report.themes import DARK, LIGHT, Panel, Theme, png

PIXELS_PER_INCH, GAP = 96, 20  # of a page; pixels between panels


class Figure(NamedTuple):
    """A figure of the page, and the PNG file beside it."""

    name: str  # of the file, without .png
    title: str
    caption: str  # HTML
    panels: Sequence[Panel]
    columns: int  # of the file; the page has as many as fit
    aside: str = ""  # HTML next to the panels

    def file(self) -> bytes:
        """The PNG of all panels, in the light theme."""
        return png(self.panels, LIGHT, self.columns)

    def html(self) -> str:
        """All panels in both themes; the browser chooses, and print is light."""
        least = 0.7 * PIXELS_PER_INCH * self.panels[0].width
        most = self.columns + bool(self.aside)
        share = f"(100% - {most - 1} * {GAP}px) / {most}"
        width = f"min(100%, max({least:.0f}px, {share}))"
        columns = f"repeat(auto-fill, minmax({width}, 1fr))"
        pictures = "\n".join(map(_picture, self.panels))
        return (
            f'<section id="{self.name}"><h2>{escape(self.title)}</h2>\n'
            f'<figure><div class="panels" style="grid-template-columns: {columns}">\n'
            f"{pictures}\n{self.aside}</div>\n"
            f"<figcaption>{self.caption}</figcaption></figure></section>"
        )


def _picture(panel: Panel) -> str:
    # Both are on the page and CSS hides one: browsers print the <source> of a <picture>
    # that they chose for the screen, dark on white.
    width, height = (round(side * PIXELS_PER_INCH) for side in panel[1:3])
    html = "<div>"
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        data = base64.b64encode(png([panel], theme)).decode()
        html += f'<img class="{name}" src="data:image/png;base64,{data}" '
        html += f'alt="{escape(panel.words)}" width="{width}" height="{height}">'
    return f"{html}</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells; the first column names the rows."""
    html = [f'<table class="{kind}"><thead><tr>']
    html += [f'<th scope="col">{title}</th>' for title in head]
    html += ["</tr></thead>\n<tbody>"]
    for first, *others in rows:
        html += [f'<tr><th scope="row">{first}</th>']
        pairs = zip(head[1:], others, strict=True)
        html += [f'<td data-title="{title}">{cell}</td>' for title, cell in pairs]
        html += ["</tr>\n"]
    return "".join([*html, "</tbody></table>"])


def named(i: int, name: str) -> str:
    """The name of run i, with a dot in the colour of its lines."""
    color = f"var(--line{i % len(LIGHT.lines)})"
    text = re.sub("[,_/-]", r"\g<0><wbr>", escape(name))  # where it may be broken
    return f'<span class="dot" style="background: {color}"></span>{text}'


def document(title: str, body: str) -> str:
    """The whole page, which needs no other file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body><main>\n{body}\n</main></body>\n</html>\n"
    )


def _variables(theme: Theme) -> str:
    names = {"paper": theme.paper, "ink": theme.ink, "muted": theme.muted}
    names["grid"] = theme.grid
    names |= {f"line{i}": color for i, color in enumerate(theme.lines)}
    return " ".join(f"--{name}: {color};" for name, color in names.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
.dark {{ display: none; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {_variables(DARK)} }}
  .dark {{ display: block; }}
  .light {{ display: none; }}
}}
@media print {{ :root {{ color-scheme: only light; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.1rem 4rem; }}
h1 {{ font-size: 2rem; line-height: 1.15; margin: 0 0 .4rem; letter-spacing: -.02em; }}
h2 {{ font-size: 1.2rem; margin: 3.2rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--grid); }}
p, figcaption {{ max-width: 44rem; margin: .5rem 0; }}
.lead, figcaption, .units {{ color: var(--muted); }}
figcaption b, .lead b {{ color: var(--ink); font-weight: 600; }}
dl {{ display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1.6rem 0; }}
dt {{ color: var(--muted); font-size: .85rem; }}
dd {{ margin: 0; font-size: 1.4rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }}
dd small {{ display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }}
pre {{ margin: .6rem 0; padding: .7rem .9rem; border: 1px solid var(--grid);
  border-radius: 6px; white-space: pre-wrap; }}
code, pre {{ font: .86rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }}
.note {{ border-left: 3px solid var(--line1); padding: .1rem 0 .1rem .9rem; }}
figure {{ margin: 0; }}
.panels {{ display: grid; gap: {GAP}px; align-items: start; margin-bottom: .8rem; }}
img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--grid); font-weight: 400; }}
thead th {{ color: var(--muted); font-size: .8rem; }}
thead th, td:nth-child(n+3) {{ overflow-wrap: normal; }}
.dot {{ display: inline-block; width: .65rem; height: .65rem; margin-right: .5rem;
  border-radius: 50%; print-color-adjust: exact; }}
@media (max-width: 40rem) {{
  main {{ padding-top: 1.4rem; }}
  .runs thead {{ display: none; }}
  .runs tr {{ display: block; padding: .5rem 0; border-bottom: 1px solid var(--grid); }}
  .runs th, .runs td {{ display: inline-block; border: 0; padding-block: .1rem; }}
  .runs tbody th {{ display: block; font-weight: 600; }}
  .runs td::before {{ content: attr(data-title) " "; color: var(--muted); }}
}}
@media print {{
  @page {{ margin: 16mm; }}
  body {{ font-size: 10pt; }}
  main {{ max-width: none; padding: 0; }}
  h2 {{ break-after: avoid; margin-top: 1.6rem; }}
  figcaption {{ break-before: avoid; }}
  .panels div, figcaption, table, dl, pre {{ break-inside: avoid; }}
}}
"""
