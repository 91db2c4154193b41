#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "scipy", "matplotlib", "jsonschema", "jinja2"]
# ///
"""One page of a result file of bench_mla run: what it says, figures, the ledger of claims, every row with its command,
and the file itself. FILE.html opens without a network; FILE.md and the pictures in FILE-figures are for other places.
Of several files the page begins with how the others compare with the first."""
import base64
import dataclasses
import functools
import gzip
import itertools
import pathlib
import re
import shlex
import sys
from dataclasses import dataclass

import results  # first: it finds the libraries
import claims
import pages
import plot
from figure_data import FIGURES, figure_of, view_of
from results import Parser, Unusable, percent, quantity, short_number, short_time, three_digits, times

import jinja2
from markupsafe import Markup

LIMIT = 1_500_000  # bytes of a page

# What is left out of a page that would be larger, in this order.
TOO_MUCH = ("figures of the later files", "JSON", "rows")


# ---- One file

COLUMNS = {  # and what they mean, where that does not say it
    "row": "op/algo/type/level/model/shape/threads",
    "time": "of one iteration of the middle repetition",
    "tokens/s": "of this operation or layer alone, not of the model",
    "GFLOP/s": "",
    "GB/s": "",
    "% of ideal": "ideal time over measured time",
    "bound": "what the ideal time is of",
    "data": "cold: weights and caches come from memory",
    "instructions": "whose peak the ideal goes by",
    "vs best": "time over that of the fastest form of the same work in this run",
}


def cells(row):
    if row.error is not None:
        return [row.name, f"ERROR: {row.error}", *[""] * (len(COLUMNS) - 2)]
    counters = row.counters

    def number(counter, form=short_number):
        return form(counters[counter]) if counter in counters else ""

    return [row.name, short_time(row.time), number("items_per_second"), number("gflops", three_digits),
            number("gbs", three_digits), number("roof", percent), "memory" if counters["bound"] else "arithmetic",
            "cold" if counters["cold"] else "warm", row.label.partition(";")[0], number("vs_best", times)]


def command_options(result):
    """What a row's command needs of the run's own: models and traces that are files, the seed, the memory."""
    try:
        arguments = shlex.split(result.context["mmb.argv"])
    except ValueError:  # of a run before these were quoted
        arguments = result.context["mmb.argv"].split()
    words = [word for argument in arguments for word in argument.split("=", 1)]
    kept = [(flag, value) for flag, value in zip(words, words[1:])
            if flag in ("--profile", "--seed", "--memory", "--trace")
            or flag == "--model" and re.search(r"/|\.json", value)]
    return " ".join(f"{flag} {shlex.quote(value)}" for flag, value in kept)


# Of the context: shown elsewhere, or not for reading.
APART = ("verdict", "models", "accounts", "bundled_accounts", "dense_equivalent_parameters_ideal",
         "dense_equivalent_parameters_measured", "warnings", "skipped")


@dataclass
class Section:
    """What the page says of one file."""
    result: object
    view: object
    names: list  # of its figures: each is once on a page
    number: int

    def __post_init__(self):
        self.context = {key.replace("mmb.", ""): value for key, value in self.result.context.items()}
        self.name = self.result.name
        self.file = pathlib.Path(self.result.path).name
        self.figures = [dataclasses.replace(figure_of(key, self.view), name=name)
                        for key, name in zip(FIGURES, self.names)]
        self.ledger = claims.ledger(self.result, claims.accounts_of(self.result))
        self.ledger_summary = claims.summary(self.ledger)
        self.wrong = [row for row in self.result.rows if row.error is not None]
        self.rows = [cells(row) for row in self.result.rows]
        self.options = command_options(self.result)
        self.models = results.figures(self.context["models"])

    @property
    def verdict(self):
        return self.context.get("verdict", "").strip() or "The file holds no verdict: its run was interrupted."

    @property
    def sentence(self):
        """The verdict's last, of the whole model."""
        last = self.verdict.split("\n\n")[-1]
        return last if last.startswith("On this machine") else ""

    @property
    def machine(self):
        memory = results.whole_number(self.context.get("memory_total_bytes", ""))
        memory = f", {quantity(memory, 'B')} of memory" if memory else ""
        return (f"{self.context['cpu_model']}, {self.context['threads_all']} threads{memory}; "
                f"{self.view.impl} kernels; measured {self.context['date'][:16].replace('T', ' ')}")

    @property
    def warnings(self):
        return [part for key in ("warnings", "skipped") for part in self.context[key].split("; ") if part]

    @property
    def facts(self):
        return {key: value for key, value in sorted(self.context.items())
                if isinstance(value, str) and key not in APART}

    @property
    def shapes(self):
        """A table of the models' dimensions: titles, lines."""
        fields = list(dict.fromkeys(field for shape in self.models.values() for field in shape))
        return ["", *self.models], [[field, *(f"{shape[field]:.0f}" if field in shape else "" for shape in
                                              self.models.values())] for field in fields]

    @functools.cached_property
    def packed(self):
        """The file, as it is."""
        return base64.b64encode(gzip.compress(pathlib.Path(self.result.path).read_bytes(), 9, mtime=0)).decode()


# ---- The page

def inline(svg):
    """A picture on light paper as a part of the page, in the page's colours."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg"):], flags=re.S)
    colors = {plot.LIGHT.paper: "paper", plot.LIGHT.ink: "ink", plot.LIGHT.muted: "muted", plot.LIGHT.grid: "grid",
              results.BLUE.lower(): "blue"}
    return Markup(re.sub("|".join(colors), lambda color: f"var(--{colors[color[0]]})", svg))


def environment():
    loader = jinja2.FileSystemLoader(results.HERE)
    made = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
                              undefined=jinja2.StrictUndefined, autoescape=lambda name: name.endswith(".html.j2"))
    made.filters["kind"] = lambda part: type(part).__name__
    made.filters["cell"] = results.markdown
    made.filters["source"] = lambda name: Markup((results.HERE / name).read_text(encoding="utf-8"))
    return made


def html_of(sections, compared, pictures):
    """The page; what does not fit the limit is left out, and the page says so. `compared`: of each comparison its
    forest, and what pages.py says of it."""
    template = environment().get_template("report.html.j2")
    pictures = {name: inline(svg) for name, svg in pictures.items()}
    for count in range(len(TOO_MUCH) + 1):
        page = template.render(sections=sections, compared=compared, pictures=pictures, columns=COLUMNS,
                               left_out=TOO_MUCH[:count])
        if len(page.encode()) < LIMIT:
            return page
    raise Unusable(f"{sections[0].file}: expected a result whose report has less than {LIMIT} bytes")


def markdown_of(section, compared, folder):
    return environment().get_template("report.md.j2").render(section=section, compared=compared, folder=folder,
                                                             columns=COLUMNS)


def main(arguments=None):
    parser = Parser(prog="report.py", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files of bench_mla run")
    parser.add_argument("--out", help="the page (default: beside the first file, FILE.html); with it go PAGE.md and "
                                      "PAGE-figures")
    for flag in ("model", "dtype", "impl"):
        parser.add_argument(f"--{flag}", help=f"the {flag} of the figures (default: the one of most rows)")
    options = parser.parse_args(arguments)
    try:
        loaded = [results.load(file) for file in options.files]
        page = pathlib.Path(options.files[0]).with_suffix(".html") if options.out is None else pathlib.Path(options.out)
        if page.suffix != ".html":
            raise Unusable(f"--out: expected a name that ends in .html, got {options.out!r}")
        text, folder = page.with_suffix(".md"), plot.figures_folder(page)
        results.spare(options.files, [page, text, plot.words_file(folder)])
        views = [view_of(result, options.model, options.dtype, options.impl) for result in loaded]
        names = zip(*(results.numbered([key] * len(loaded)) for key in FIGURES))
        sections = list(map(Section, loaded, views, names, itertools.count()))
        comparisons = plot.compared(options.files)
        compared = list(zip(plot.forests(comparisons), (list(pages.page_of(comparison)) for comparison in comparisons)))
        figures = [figure for section in sections for figure in section.figures] + [forest for forest, _ in compared]
        with results.writing(f"--out: {page}", "a page"):
            pictures = plot.write(figures, folder)
            page.write_text(html_of(sections, compared, pictures), encoding="utf-8")
            text.write_text(markdown_of(sections[0], compared, folder.name), encoding="utf-8")
        with results.standard_output() as out:
            print(f"report   {page}\n         {text}\nfigures  {folder}/", file=out)
    except Unusable as problem:
        print(f"report.py: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
