"""Make one HTML page of sections that needs nothing else: styles, scripts, Plotly and data are in it."""

import html
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from replay.report.parts import Column, Figure, Folded, Part, Section, Table, cell
from replay.report.style import plotly

# A browser that obeys this asks nobody for anything: what is not in the page does not load.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


class Page:
    """Collects groups of sections and writes them down."""

    def __init__(self, title: str, says: str, colours: Mapping[str, str] | None = None) -> None:
        """Begin a page.

        says    : the line below the title
        colours : name -> colour; where a name stands in the first column of a table it gets a swatch
        """
        self.title, self.says, self.colours = title, says, dict(colours or {})
        self.groups: list[tuple[str, list[Section]]] = []

    def add(self, heading: str, sections: Sequence[Section]) -> None:
        """Add a group of sections under a heading; sections without parts are left out."""
        kept = [section for section in sections if section.parts]
        if kept:
            self.groups.append((heading, kept))

    def parts(self) -> list[Part]:
        """Return every part of the page, in order."""
        return [part for _, sections in self.groups for section in sections for part in section.parts]

    def html(self) -> str:
        """Return the page."""
        self._ids: dict[str, int] = {}
        self._figures = 0
        links, body = [], []
        for heading, sections in self.groups:
            links.append(f"<b>{html.escape(heading)}</b>")
            body.append(f"<h2>{html.escape(heading)}</h2>")
            for section in sections:
                place = self._id(f"{heading} {section.title}")
                links.append(f'<a href="#{place}">{html.escape(section.title)}</a>')
                parts = "\n".join(self._part(part) for part in section.parts)
                body.append(
                    f'<section id="{place}"><h3>{html.escape(section.title)}</h3>\n'
                    f"<p>{html.escape(section.says)}</p>\n{parts}</section>"
                )
        return self._whole("\n".join(links), "\n".join(body))

    def _whole(self, links: str, body: str) -> str:
        files = resources.files("replay.report")
        style = files.joinpath("page.css").read_text(encoding="utf-8")
        script = files.joinpath("page.js").read_text(encoding="utf-8")
        library = f"<script>{plotly().offline.get_plotlyjs()}</script>\n" if self._figures else ""
        return (
            f'<!DOCTYPE html>\n<html lang="en" data-figures="{self._figures}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{html.escape(self.title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n'
            f"<script>\n{script}</script>\n{library}</head>\n<body>\n"
            f'<div class="page"><nav aria-label="contents">\n{links}\n</nav>\n<main>\n'
            f"<h1>{html.escape(self.title)}</h1>\n"
            f'<p>{html.escape(self.says)}</p>\n<div class="trouble" id="trouble"></div>\n{body}\n</main></div>\n'
            "</body>\n</html>\n"
        )

    def _id(self, text: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
        self._ids[slug] = self._ids.get(slug, 0) + 1
        return slug if self._ids[slug] == 1 else f"{slug}-{self._ids[slug]}"

    def _part(self, part: Part) -> str:
        if isinstance(part, Figure):
            return self._figure(part)
        if isinstance(part, Folded):
            title, text = html.escape(part.title), html.escape(part.text)
            return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
        return self._table(part)

    def _figure(self, figure: Figure) -> str:
        self._figures += 1
        place = self._id(f"figure {figure.name}")
        data = figure.plot.to_json().replace("<", "\\u003c")
        height = figure.plot.layout.height
        return (
            f'<div class="figure" id="{place}" style="height:{height}px"></div>\n'
            f'<script type="application/json" id="{place}-data">{data}</script>'
        )

    def _table(self, table: Table) -> str:
        columns = table.shown()
        rows = table.frame.head(table.most).to_dicts()
        words = {column.key for column in columns if any(isinstance(row[column.key], str) for row in rows)}
        best = {column.key: table.marked(column) for column in columns}
        kinds = [' class="text"' if column.key in words else "" for column in columns]
        head = "".join(
            f"<th{kind}>{html.escape(column.heading)}</th>" for column, kind in zip(columns, kinds, strict=True)
        )
        body = "\n".join(
            "<tr>"
            + "".join(
                self._cell(row[column.key], column, (k == 0, column.key in words), best[column.key])
                for k, column in enumerate(columns)
            )
            + "</tr>"
            for row in rows
        )
        left = table.frame.height - len(rows)
        more = f" ({left:,} more rows there)" if left > 0 else ""
        return (
            f'<div class="scroll"><table><caption>{html.escape(table.name)}{more}</caption><thead><tr>{head}</tr>'
            f"</thead><tbody>\n{body}\n</tbody></table></div>"
        )

    def _cell(self, value: Any, column: Column, at: tuple[bool, bool], best: Any) -> str:
        first, words = at
        marks = (["text"] if words else []) + (["best"] if best is not None and value == best else [])
        kind = f' class="{" ".join(marks)}"' if marks else ""
        colour = self.colours.get(str(value)) if first else None
        swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
        return f"<td{kind}>{swatch}{html.escape(cell(value, column.factor))}</td>"
