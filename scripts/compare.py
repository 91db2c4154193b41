#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "scipy", "jsonschema", "jinja2", "rich"]
# ///
"""Compares results of bench_mla run: the first with each of the others.

  compare.py BASE NEW [NEW ...]                    each a result file, or a folder of them
  compare.py --run OLD/bench_mla NEW/bench_mla     starts both by turns, then compares
             [-- options of bench_mla run]

The files of a folder are starts of one program on one machine. The start is the sample: what is settled once in the
life of a process (where its memory lies, who its neighbours are) is the same for all of its repetitions. So one file
a side gives ratios, points to rows that stand out from the others, and gives no verdict: that takes 5 starts a side at
the least. --run makes 10 of each, in the order A B B A A B B A.

The same machine and setting: did the change matter? Starts are paired by their dates. The interval is the 95 %
bootstrap interval of the median of the pairs' log ratios of time. The floor is how far medians of as many starts of
BASE lie from each other by chance, 3 % at the least. SLOWER or FASTER: the whole interval is beyond the floor. SAME:
it is inside of 3 %. Else UNCLEAR, with the number of starts that would tell. Beside it stands the p of the exact
Mann-Whitney test, corrected for the number of rows by Holm.

Another machine or setting (CPU, level of instructions, threads): no verdicts, but how much faster it is, how much of
that the measured peaks of both explain, and what is left; then the conclusions of both side by side, without units.

Exit status: 0 fine; 1 something that --fail-on names; 2 usage, or a file that cannot be used; 3 not comparable.
"""
import argparse
import datetime
import pathlib
import re
import subprocess
import sys
import time

from results import Parser, Unusable, load, spare, standard_output, whole_number, writing  # first: it finds the libraries
from comparison import compare, load_side
from pages import FORMATS

# What the exit status can be asked to tell.
GATES = {
    "counters": ("an exact counter changed", lambda c: [row for row in c.rows if row.changed]),
    "errors": ("a row is an error in new", lambda c: [row for row in c.rows if "new" in row.errors]),
    "slower": ("a row is SLOWER", lambda c: c.having("SLOWER")),
    "missing": ("a row of base is not in new", lambda c: c.only_base),
}


# ---- Starting two programs by turns

def run_by_turns(options):
    """Starts two programs in the order A B B A A B B A, and leaves the results in two folders. Ends after the first
    pair if that is not comparable."""
    folder = options.into or pathlib.Path("results") / f"compare-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if folder.exists():
        raise Unusable(f"--into: {folder}: expected a folder that is not there yet")
    turns = [side for pair in range(options.starts) for side in ((0, 1) if pair % 2 == 0 else (1, 0))]
    folders = [folder / "base", folder / "new"]
    begin = time.monotonic()
    try:
        for done, side in enumerate(turns):
            program = options.run[side]
            left = (time.monotonic() - begin) / done * (len(turns) - done) / 60 if done else None
            print(f"start {done + 1} of {len(turns)}: {program}" + (f", about {left:.0f} min left" if done else ""),
                  file=sys.stderr)
            run_once(program, folders[side] / f"{done + 1:03}.json", options.run_options)
            if done == 1 and any(reasons(c, options) for c in compared(folders, options)):
                break
    finally:
        if folder.exists():
            print(f"Results of the starts: {folder}", file=sys.stderr)
    return folders


def run_once(program, file, options):
    try:
        ended = subprocess.run([program, "run", *options, "--out", file], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise Unusable(f"--run: {program}: expected a program: {error.strerror}") from None
    # 1 is of rows whose results are wrong: they say so in the file.
    if ended.returncode not in (0, 1) or not file.exists():
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Unusable(f"--run: {program}: expected a result file, got exit status {ended.returncode}: {last}")
    load(file)  # what cannot be used is said before the next start


# ---- The command line

def some_of(known):
    """For argparse: a list of words, or none."""
    def words(text):
        some = [] if text == "none" else text.split(",")
        for word in some:
            if word not in known:
                raise argparse.ArgumentTypeError(f"expected none or some of {','.join(known)}, got '{word}'")
        return some
    return words


def pattern(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, got '{text}': {error}") from None


def positive(text):
    if not whole_number(text):
        raise argparse.ArgumentTypeError(f"expected a positive number, got '{text}'")
    return int(text)


def parse(arguments):
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = Parser(prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                    usage="compare.py [options] BASE NEW [NEW ...] | --run A B [-- options of bench_mla run]")
    add = parser.add_argument
    add("sides", nargs="*", metavar="FILE_OR_FOLDER", help="results: the base, and what is compared with it")
    add("--run", nargs=2, metavar=("A", "B"), help="two programs bench_mla: the base and the new one")
    add("--starts", type=positive, default=10, metavar="N", help="with --run: of each program (default 10)")
    add("--into", type=pathlib.Path, metavar="FOLDER",
        help="with --run: a new folder for the results (default results/compare-DATE)")
    add("--filter", type=pattern, default=pattern(""), metavar="REGEX", help="only rows in whose name it is found")
    add("--across", type=some_of(("impl", "threads")), default=[], metavar="PARTS",
        help="join names that differ in these: impl, threads. impl is added where each side has rows of one level")
    add("--as", dest="setting", choices=("same", "other"), help="machine and setting, whatever the files say")
    add("--fail-on", type=some_of(GATES), default=["counters", "errors"], metavar="WHAT",
        help="exit with 1 on " + ", ".join(f"{name} ({what})" for name, (what, _) in GATES.items())
             + ", or none of them (default counters,errors)")
    add("--force", action="store_true", help="compare what is not comparable")
    add("--format", choices=FORMATS, default="table")
    add("--out", type=pathlib.Path, metavar="FILE", help="default: standard output")
    options = parser.parse_args(arguments[:end])
    options.run_options = arguments[end + 1:]
    if options.run and options.sides:
        parser.error("expected two programs after --run and no files")
    if not options.run and len(options.sides) < 2:
        parser.error("expected two result files or folders, or --run and two programs")
    if not options.run and (options.run_options or options.into):
        parser.error("expected --run with --into or options after --")
    return options


def compared(paths, options):
    """The first with each of the others."""
    same = {None: None, "same": True, "other": False}[options.setting]
    base, *others = sides = list(map(load_side, paths))
    names = {row.name for side in sides for start in side.starts for row in start.rows}
    if not any(map(options.filter.search, names)):
        raise Unusable(f"--filter: expected what is found in the name of a row, got {options.filter.pattern!r}")
    return [compare(base, new, same, options.across, options.filter.search, options.force) for new in others]


def write(comparisons, options):
    if options.out is None:
        with standard_output() as out:
            FORMATS[options.format](comparisons, out)
    else:
        spare([start.path for c in comparisons for side in (c.base, c.new) for start in side.starts], [options.out])
        with writing(f"--out: {options.out}", "a file"), open(options.out, "w", encoding="utf-8") as out:
            FORMATS[options.format](comparisons, out)


def reasons(c, options):
    """Why the comparison cannot be made, or answer what was asked."""
    if options.force:
        return []
    if "slower" in options.fail_on and not c.same:
        return c.refusals + ["--fail-on slower needs the same machine and setting"]
    if c.having("CHANGED") and "counters" not in options.fail_on:
        return c.refusals + [f"exact counters differ in {len(c.having('CHANGED'))} rows"]
    return c.refusals


def exit_status(comparisons, options):
    status = 0
    for c in comparisons:
        pair = f"{c.new.name} against {c.base.name}"
        for gate in options.fail_on:
            what, found = GATES[gate]
            if found(c):
                print(f"compare.py: {pair}: {what}: {len(found(c))}", file=sys.stderr)
                status = max(status, 1)
        for reason in reasons(c, options):
            print(f"compare.py: {pair}: not comparable: {reason} (--force compares all the same)", file=sys.stderr)
            status = 3
    return status


def main(arguments):
    options = parse(arguments)
    try:
        comparisons = compared(run_by_turns(options) if options.run else options.sides, options)
        if options.force or not any(c.refusals for c in comparisons):
            write(comparisons, options)
        return exit_status(comparisons, options)
    except Unusable as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
