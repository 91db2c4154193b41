"""Comparisons in words and tables: a page is a list of headings, sentences and tables, which each format writes."""
import csv
import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from comparison import MIN_STARTS, Compared
from results import markdown, rich_console, short_time, times


@dataclass
class Heading:
    text: str


@dataclass
class Sentence:
    text: str


@dataclass
class Table:
    columns: list
    lines: list  # of texts


def page(comparisons):
    for comparison in comparisons:
        yield from page_of(comparison)


def page_of(c):
    yield Heading(f"{c.new.name} against {c.base.name}: {'' if c.same else 'not '}the same machine and setting")
    yield from (Sentence(f"Not comparable: {text}.") for text in c.refusals)
    yield from (Sentence(f"Warning: {text}.") for text in c.warnings)
    yield from (Sentence(f"Note: {text}.") for text in c.notes)
    if c.rows:
        yield (same_table if c.same else other_table)(c.rows)
    yield from (Sentence(f"{row.name}: {counter} was {old:.17g}, is {new:.17g}.")
                for row in c.rows for counter, (old, new) in row.changed.items())
    for which, names in (("base", c.only_base), ("new", c.only_new)):
        if names:
            yield Table([f"only in {which}"], [[name] for name in names])
    if c.conclusions and not c.same:
        yield Table(["conclusion: how many times as fast", "base", "new"],
                    [[what, *(text or "-" for text in texts)] for what, texts in c.conclusions.items()])
    yield from (Sentence(text) for text in summary(c))


def same_table(rows):
    return Table(["row", "base", "new", "time", "95 % interval", "floor", "verdict", "p (Holm)"],
                 [[row.name, *seconds(row), change(row.ratio),
                   "-" if row.low is None else f"{change(row.low)} .. {change(row.high)}",
                   "-" if row.floor is None else f"{100 * (row.floor - 1):.1f} %", verdict_words(row),
                   "-" if row.p_holm is None else f"{row.p_holm:.2g}"] for row in rows])


def other_table(rows):
    return Table(["row", "base", "new", "speed of new", "95 % interval", "peaks explain", "left"],
                 [[row.name, *seconds(row), speed(row.ratio),
                   "-" if row.low is None else f"{speed(row.high)} .. {speed(row.low)}",
                   verdict_words(row) if row.verdict else f"{speed(row.ideal_ratio)} {row.bound}",
                   speed(row.left_ratio)] for row in rows])


def seconds(row):
    return ["-" if value is None else short_time(value) for value in (row.base_seconds, row.new_seconds)]


def change(ratio):
    return "-" if ratio is None else f"{100 * (ratio - 1):+.{0 if ratio > 2 else 1}f} %"


def speed(ratio):
    return "-" if ratio is None else times(1 / ratio)


def verdict_words(row):
    if row.verdict == "ERROR":
        return "ERROR in " + ", ".join(f"{side}: {what}" for side, what in row.errors.items())
    if row.verdict == "CHANGED":
        return "CHANGED: " + ", ".join(row.changed)
    if row.verdict != "UNCLEAR":
        return row.verdict
    if row.starts < MIN_STARTS:
        return "UNCLEAR, stands out" if row.stands_out else "UNCLEAR"
    far = "over 1000" if row.starts_that_tell > 1000 else f"about {row.starts_that_tell}"
    return f"UNCLEAR ({far} starts would tell)"


VERDICTS = ("SLOWER", "FASTER", "SAME", "UNCLEAR", "CHANGED", "ERROR")


def summary(c):
    counts = Counter(row.verdict for row in c.rows if row.verdict)
    words = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
    yield f"{len(c.rows)} rows in both" + (f": {words}." if words else ".")
    for word in ("SLOWER", "FASTER"):
        yield from (f"{word}: {row.name}: {change(row.ratio)}." for row in c.having(word))
    yield from (f"Stands out, unproven: {row.name}: {change(row.ratio)}." for row in c.rows if row.stands_out)
    weighed = [row for row in c.rows if row.left_ratio and not row.verdict]
    if weighed:
        raw, explained, left = (times(math.exp(-np.median(np.log([getattr(row, of) for row in weighed]))))
                                for of in ("ratio", "ideal_ratio", "left_ratio"))
        yield f"The middle row is {raw} as fast in new; the measured peaks explain {explained}; {left} is left."


# ---- Formats

def write_table(comparisons, out):
    """In columns."""
    console = rich_console(out)
    if console:
        write_rich(comparisons, console)
    else:
        write_plain(comparisons, out)


COLORS = {"SLOWER": "red", "FASTER": "green", "CHANGED": "magenta", "ERROR": "magenta"}


def write_rich(comparisons, console):
    import rich.box
    import rich.table
    import rich.text
    for part in page(comparisons):
        if isinstance(part, Heading):
            console.rule(rich.text.Text(part.text))
        elif isinstance(part, Sentence):
            console.print(rich.text.Text(part.text))
        else:
            table = rich.table.Table(box=rich.box.SIMPLE)
            for i, column in enumerate(part.columns):
                table.add_column(column, overflow="fold", justify="left" if i == 0 else "right")
            for line in part.lines:
                style = next((COLORS[word] for text in line[1:] for word in COLORS if text.startswith(word)), None)
                table.add_row(*map(rich.text.Text, line), style=style)
            console.print(table)


def write_plain(comparisons, out):
    for part in page(comparisons):
        if isinstance(part, Heading):
            print(f"\n== {part.text}", file=out)
        elif isinstance(part, Sentence):
            print(part.text, file=out)
        else:
            print(file=out)
            widths = [max(map(len, cells)) for cells in zip(part.columns, *part.lines)]
            for line in (part.columns, *part.lines):
                cells = [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
                print("  ".join(cells).rstrip(), file=out)
            print(file=out)


def write_md(comparisons, out):
    for part in page(comparisons):
        if isinstance(part, Heading):
            print(f"## {markdown(part.text)}\n", file=out)
        elif isinstance(part, Sentence):
            print(f"{markdown(part.text)}\n", file=out)
        else:
            rule = ["---"] + ["---:"] * (len(part.columns) - 1)
            for line in (part.columns, rule, *part.lines):
                print("|", " | ".join(map(markdown, line)), "|", file=out)
            print(file=out)


HTML = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>mmb: comparison</title><style>
:root { color-scheme: light dark }
body { font: 15px/1.4 sans-serif; margin: 2em }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px }
th, td { padding: .2em .7em; border-bottom: 1px solid #8886; text-align: right }
th:first-child, td:first-child { text-align: left }
</style></head><body>
{% for kind, part in parts %}
{% if kind == "Heading" %}<h2>{{ part.text }}</h2>
{% elif kind == "Sentence" %}<p>{{ part.text }}</p>
{% else %}<table><thead>
<tr>{% for text in part.columns %}<th scope="col">{{ text }}</th>{% endfor %}</tr></thead><tbody>
{% for line in part.lines %}<tr>{% for text in line %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% endif %}{% endfor %}</body></html>
"""


def write_html(comparisons, out):
    import jinja2
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(HTML)
    out.write(template.render(parts=[(type(part).__name__, part) for part in page(comparisons)]))


FIELDS = [f.name for f in dataclasses.fields(Compared) if f.repr] + ["left_ratio"]


def data_of(row):
    return {name: getattr(row, name) for name in FIELDS}


def write_json(comparisons, out):
    def side(s):
        return {"name": s.name, "files": [start.path for start in s.starts]}

    json.dump([{"base": side(c.base), "new": side(c.new), "same": c.same, "rows": [data_of(row) for row in c.rows],
                "only_base": c.only_base, "only_new": c.only_new, "refusals": c.refusals, "warnings": c.warnings,
                "notes": c.notes, "conclusions": c.conclusions}
               for c in comparisons], out, indent=1, allow_nan=False)
    out.write("\n")


def write_csv(comparisons, out):
    writer = csv.DictWriter(out, ["base", "new", *FIELDS, "only_in"], restval="", lineterminator="\n")
    writer.writeheader()
    for c in comparisons:
        sides = {"base": c.base.name, "new": c.new.name}
        for row in c.rows:
            writer.writerow({**sides, **data_of(row), "changed": " ".join(row.changed), "errors": " ".join(row.errors)})
        for which, names in (("base", c.only_base), ("new", c.only_new)):
            writer.writerows({**sides, "name": name, "only_in": which} for name in names)


FORMATS = {"table": write_table, "md": write_md, "csv": write_csv, "json": write_json, "html": write_html}
