#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "jsonschema", "rich"]
# ///
"""The ledger: what was claimed about DeepSeek's models, and what a run and the accounts say to it.

  claims.py RESULT.json [--format table|md|json]

How to read it. Each entry is one claim in our words, what would test it, the figure from this run or from the accounts
(bench_mla account --details; a result file keeps them), the published figures with source and date, and a verdict:

  holds                  the figures here say so
  holds only if          they say so under the condition that the reason names
  does not hold here     they say otherwise: on this machine where the test is a timing, anywhere where it is arithmetic
  cannot be told         by this tool: it measures time and counts bytes and FLOPs, not quality, nor what others keep to
                         themselves; or from this run: the reason then names the command that would tell
  figure is misprinted   the published number does not follow from what it is said to follow from

G are the claims of "Are DeepSeek's new models really that fast and cheap?", N those of "Why is DeepSeek V3 fast?", F
are published figures. Times are those of a row's middle repetition on all threads, and hold for this machine, and for
one layer unless a row is a whole model's; "ideal" is what they would be were every kernel as fast as the machine. Times
that differ by less than 3 % count as equal. A price is not a cost: prices are as listed at the date beside them, and
the only cost that can be computed here is rented hardware over a published throughput. No number of the ledger is
typed: it comes from the run, from the accounts or from published.json.
"""
import argparse
import json
import sys
import textwrap

import judgements
import results
from evidence import Evidence, Lacking, said
from judgements import BY_TOOL, FROM_RUN, HOLDS, MISPRINT, NOT_HERE, ONLY_IF
from results import Parser, Unusable

FIELDS = ("id", "claim", "test", "figure", "published", "verdict", "why")


def accounts_of(result):
    """The accounts of the bundled models, details included, that a result file keeps: {model: {figure: number}}."""
    return results.accounts(result.context, "mmb.bundled_accounts")


def ledger(result, accounts):
    """A dict of FIELDS for each claim."""
    evidence = Evidence(result, accounts)
    entries = []
    for ident, claim, test, judge in judgements.CLAIMS:
        entry = judgements.Entry()
        try:
            verdict, why = judge(evidence, entry)
        except Lacking as lacking:
            verdict, why = FROM_RUN, str(lacking) + results.left_out(evidence.left_out)
        entries.append(dict(zip(FIELDS, (ident, said(claim), said(test), entry.figure, entry.published, verdict, why))))
    return entries


# ---- Showing

COLORS = {HOLDS: "green", ONLY_IF: "yellow", NOT_HERE: "red", MISPRINT: "magenta", BY_TOOL: "dim", FROM_RUN: "dim"}


def summary(entries):
    counts = {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in COLORS}
    return "; ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def write_plain(entries, out):
    for entry in entries:
        print(f"{entry['id']:<4} {entry['verdict'].upper()}", file=out)
        for name in ("claim", "test", "figure", "published", "why"):
            print(textwrap.fill(entry[name], 118, initial_indent=f"     {name:<10}", subsequent_indent=" " * 15,
                                break_on_hyphens=False, break_long_words=False), file=out)
        print(file=out)
    print(textwrap.fill(summary(entries), 118), file=out)


def write_rich(entries, console):
    from rich.table import Table
    from rich.text import Text
    for entry in entries:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", min_width=9)
        grid.add_column()
        verdict = Text(entry["verdict"], f"bold {COLORS[entry['verdict']]}")
        grid.add_row(Text(entry["id"], "bold"), Text.assemble(verdict, "  ", (entry["claim"], "bold")))
        for name in ("test", "figure", "published", "why"):
            grid.add_row(name, Text(entry[name]))
        console.print(grid, "")
    console.print(Text(summary(entries)))


def write_table(entries, out):
    console = results.rich_console(out)
    if console:
        write_rich(entries, console)
    else:
        write_plain(entries, out)


def write_md(entries, out):
    print("| " + " | ".join(FIELDS) + " |\n|" + " --- |" * len(FIELDS), file=out)
    for entry in entries:
        print("| " + " | ".join(results.markdown(entry[name]) for name in FIELDS) + " |", file=out)


def write_json(entries, out):
    print(json.dumps(entries, indent=2, ensure_ascii=False), file=out)


def main(arguments=None):
    first_line, usage, *paragraphs = __doc__.split("\n\n")
    parser = Parser(prog="claims.py", description=first_line, epilog="\n\n".join(paragraphs),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", metavar="RESULT.json", help="what bench_mla run wrote")
    writers = {"table": write_table, "md": write_md, "json": write_json}
    parser.add_argument("--format", choices=writers, default="table", help="for a terminal (default), Markdown or JSON")
    chosen = parser.parse_args(arguments)
    try:
        result = results.load(chosen.result)
        with results.standard_output() as out:
            writers[chosen.format](ledger(result, accounts_of(result)), out)
    except Unusable as error:
        print(f"claims.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
