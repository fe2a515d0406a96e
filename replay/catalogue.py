"""The verb `policies`: what can be chosen in each slot, read from the policies' own signatures and docstrings.

`python -m replay.catalogue README.md` writes the same as a table between the file's marks.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from replay.configuration import near, plugin_paths
from replay.errors import ConfigError
from replay.policy import SLOTS, Choice, Span, load_all, load_file, registry
from replay.table import show

BEGIN, END = "<!-- policies -->", "<!-- /policies -->"


def main(arguments: Sequence[str]) -> int:
    """Print the policies of all slots, or of those named.

    arguments : names of slots, and plugins=[FILE, ...]
    raises    : ConfigError for another argument; PolicyError for a broken plug-in
    """
    load_all()
    for path in plugin_paths(arguments):
        load_file(path)
    slots = [text for text in arguments if "plugins=" not in text]
    for slot in slots:
        if slot not in SLOTS:
            raise ConfigError(f"there is no policy slot '{slot}'{near(slot, SLOTS)}")
    show(listing(slots or list(SLOTS)))
    return 0


def listing(slots: Sequence[str]) -> Table:
    """Make the table of policies: slot, name, first line of the docstring, tunables with their ranges."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("slot", "name", "tunables"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does", max_width=70)
    for slot in slots:
        for name, policy in sorted(registry()[slot].items()):
            pairs = (f"{key}={policy.defaults[key]} {_range(span)}" for key, span in policy.tunables.items())
            table.add_row(slot, name, "\n".join(pairs), policy.doc.partition("\n")[0])
    return table


def _range(tunable: Span | Choice) -> str:
    if isinstance(tunable, Span):
        return f"({tunable.low} to {tunable.high})"
    return f"({' | '.join(map(str, tunable.values))})"


def markdown() -> str:
    """Return the policies of the package as a Markdown table, in the order of the slots."""
    load_all()
    rows = ["| slot | policy | what it does | tunables | source |", "|---|---|---|---|---|"]
    for slot in SLOTS:
        for name, policy in sorted(registry()[slot].items()):
            if policy.function.__module__.startswith("policies."):
                pairs = (f"`{key}={policy.defaults[key]}` {_range(span)}" for key, span in policy.tunables.items())
                cells = (slot, f"`{name}`", policy.doc.partition("\n")[0], "<br>".join(pairs), policy.source)
                rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def updated(text: str) -> str:
    """Return a page with the table between its marks made anew.

    raises : ConfigError if the marks are missing
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page must have the lines {BEGIN} and {END}, but has not both. Add them.")
    return f"{head}{BEGIN}\n{markdown()}\n{END}{tail}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    fresh = page.with_name(f".{page.name}.partial")
    fresh.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
    os.replace(fresh, page)
