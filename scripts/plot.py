#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy", "scipy", "matplotlib", "jsonschema"]
# ///
"""Figures of result files of bench_mla run, as SVG and PNG, on light and on dark paper; of several files also how the
later ones compare with the first. What a figure shows comes from its file; where rows are missing, it says so."""
import dataclasses
import io
import json
import math
import pathlib
import re
import sys
import textwrap
import warnings
from dataclasses import dataclass, field
from html import escape

import results  # first: it finds the libraries
from comparison import compare, load_side
from figure_data import FIGURES, PARTS, binary, figure_of, forest_of, plain_number, view_of
from results import Parser, Unusable, numbered, short_time, standard_output, times, writing

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Affine2D

# Of letters that the font lacks, as a machine's alias may have: an SVG holds them as text all the same.
warnings.filterwarnings("ignore", "Glyph .* missing from")


# ---- Paper

@dataclass(frozen=True)
class Theme:
    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    instead: dict = field(default_factory=dict)  # of a colour: one that reads as well on this paper

    def color(self, color):
        return self.instead.get(color, color)


LIGHT = Theme("light", "#ffffff", "#1b1f24", "#57606a", "#d8dee4", {results.BLACK: "#1b1f24"})
DARK = Theme("dark", "#0d1117", "#e6edf3", "#9198a1", "#30363d", {results.BLACK: "#e6edf3", results.BLUE: "#56b4e9"})

WIDTH = 8.0  # inches: at the 800 pixels of a README a point is 1.4 pixels
TITLE, TEXT, SMALL = 12.5, 10, 9  # points
EDGE, LEFT, RIGHT, TOP, BOTTOM = 0.12, 0.85, 1.85, 0.72, 0.6  # inches around the axes; names of lines are on the right
GAP, BAR_LEGEND, ROW, LEAST_FOREST = 0.35, 0.3, 0.24, 2.6  # inches
LINE, TITLE_LINE = 0.17, 0.23  # inches: of small text and of a title
CHARACTERS, TITLE_CHARACTERS = 112, 68  # that fit into such a line
CHARACTER = 0.07  # inches, of small text
STYLE = {
    "font.size": TEXT, "axes.labelsize": TEXT, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.6,
    "svg.fonttype": "none", "svg.hashsalt": "mmb", "text.parse_math": False,
}


class Sheet:
    """The canvas of one figure: title above, notes below, room for axes between."""

    def __init__(self, figure, theme, height):
        title = textwrap.wrap(figure.title, TITLE_CHARACTERS)
        subtitle = textwrap.wrap(figure.subtitle, CHARACTERS)
        notes = [line for note in figure.notes for line in textwrap.wrap(note, CHARACTERS, subsequent_indent="  ")]
        foot = LINE * len(notes) + 0.12
        self.theme, self.bottom = theme, foot + BOTTOM * figure.drawn
        self.top = self.bottom + height
        self.height = self.top + TOP + TITLE_LINE * (len(title) - 1) + LINE * (len(subtitle) - 1)
        self.canvas = plt.figure(figsize=(WIDTH, self.height), facecolor=theme.paper)
        for at, line in enumerate(title):
            self.text(self.height - 0.3 - TITLE_LINE * at, line, theme.ink, TITLE, fontweight="bold")
        for at, line in enumerate(reversed(subtitle)):
            self.text(self.top + 0.19 + LINE * at, line, theme.muted, SMALL)
        for at, line in enumerate(notes):
            self.text(foot - 0.14 - LINE * at, line, theme.muted, SMALL)

    def text(self, y, text, color, size, **how):
        self.canvas.text(EDGE / WIDTH, y / self.height, text, color=color, fontsize=size, **how)

    def axes(self, left, low, width, height):
        """Axes at a place in inches from the left edge and from the foot."""
        at = left / WIDTH, (self.bottom + low) / self.height, width / WIDTH, height / self.height
        return self.canvas.add_axes(at, facecolor=self.theme.paper)

    def beside(self, axes, x, y, text, **how):
        """Text at x inches from the left edge, or from the right end of the axes, at the height of y."""
        across = Affine2D().translate(x, 0) + self.canvas.dpi_scale_trans
        axes.annotate(text, (0, y), xycoords=(across, "data"), fontsize=SMALL, color=self.theme.ink, va="center",
                      annotation_clip=False, **how)


def shortened(text, width):
    """Without its middle where it has no room in so many inches."""
    most = int(width / CHARACTER)
    return text if len(text) <= most else f"{text[:most // 2]}…{text[len(text) - (most - 1) // 2:]}"


def dress(axes, theme, grid="both"):
    axes.tick_params(colors=theme.muted, which="both", length=3)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    axes.grid(True, axis=grid, color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)


def bare(number):
    """1.00k is 1k at a tick, 1.50k is 1.5k."""
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda zeros: zeros[1].rstrip("."), number)


def round_numbers(low, high, most=8):
    """Of a logarithmic axis: the finest that are not more."""
    powers = [10.0 ** power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    choices = [[step * power for power in powers for step in steps]
               for steps in ((1, 1.5, 2, 3, 4, 6, 8), (1, 2, 5), (1, 3), (1,))]
    if high / low < 3:  # so short that even steps look even
        choices.insert(0, MaxNLocator(most - 1, steps=[1, 2, 5, 10]).tick_values(low, high))
    inside = [[number for number in numbers if low <= number <= high] for numbers in choices]
    return next((numbers for numbers in inside if len(numbers) <= most), inside[-1])


# ---- Lines

def draw_panels(figure, theme):
    count, width = len(figure.panels), WIDTH - LEFT - RIGHT
    height = 2.3 * count if figure.stacked else 3.2
    sheet = Sheet(figure, theme, height)
    first = None
    for at, panel in enumerate(figure.panels):
        named = [line for line in panel.lines if line.named]
        if figure.stacked:
            each = (height - GAP * (count - 1)) / count
            axes = sheet.axes(LEFT, (count - 1 - at) * (each + GAP), width, each)
        else:
            each = (width - GAP * (count - 1)) / count
            axes = sheet.axes(LEFT + at * (each + GAP), 0, each, height - 0.25 * bool(panel.title))
            named = all_names(figure) if panel is figure.panels[-1] else []
            if first:
                axes.sharey(first)
        draw_panel(axes, panel, theme, named)
        if first and not figure.stacked:
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")
        first = first or axes
    return sheet.canvas


def all_names(figure):
    """Of panels side by side only the last has room for names: of its lines, and of those that others have."""
    lines = {line.label: dataclasses.replace(line, joined=False) for panel in figure.panels for line in panel.lines}
    return list({**lines, **{line.label: line for line in figure.panels[-1].lines}}.values())


def draw_panel(axes, panel, theme, named):
    axes.set_xscale("log")
    axes.set_yscale("log")
    for line in panel.lines:
        color = theme.color(line.style.color)
        is_curve = line.joined and len(line.points) > 14
        axes.plot(*zip(*line.points), color=color, linestyle=line.style.dash if line.joined else "none",
                  linewidth=1.2 if line.ideal else 1.8, marker="" if is_curve else line.style.marker,
                  markersize=6 if line.joined else 5, markerfacecolor=theme.paper if line.ideal else color, zorder=3)
    for level in panel.levels:
        axes.axhline(level.y, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(f"{level.text}: {panel.y_format(level.y)}", (int(level.side == "right"), level.y),
                      (0, -3 if level.below else 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha=level.side, va="top" if level.below else "bottom", color=theme.muted, fontsize=SMALL)
        if level.below:  # room for the words
            axes.set_ylim(bottom=min(axes.get_ylim()[0], level.y / 1.6))
    for x, y, text in panel.marks:
        axes.plot([x], [y], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=theme.ink, zorder=4)
        axes.annotate(text, (x, y), (0, 8), textcoords="offset points", ha="center", va="bottom", color=theme.ink,
                      fontsize=SMALL, zorder=5)
    for point in panel.doubts:
        axes.annotate("!", point, (0, 4), textcoords="offset points", ha="center", va="bottom", color=theme.ink,
                      fontsize=TEXT, fontweight="bold", zorder=5)
    if panel.x_ticks:
        axes.xaxis.set_major_locator(FixedLocator(panel.x_ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: binary(x) if panel.x_ticks else plain_number(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: bare(panel.y_format(y))))
    axes.yaxis.set_major_locator(FixedLocator(round_numbers(*axes.get_ylim())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_title(panel.title, fontsize=TEXT, loc="left", color=theme.ink)
    dress(axes, theme)
    name_lines(axes, named, theme)


def name_lines(axes, lines, theme):
    """The names at the lines' ends, pushed apart where they would overlap; without an end here, a marker before it."""
    box = axes.get_position()
    width, height = box.width * WIDTH * 72, box.height * axes.figure.get_figheight() * 72  # points
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(line.points[-1]) if line.joined else (1, -1) for line in lines]
    inside = [end[0] < 0.75 for end in ends]  # far from where the names are
    for line in (line for line, far in zip(lines, inside) if far):
        axes.annotate(line.label, line.points[-1], (8, 0), textcoords="offset points", color=theme.ink, fontsize=SMALL,
                      va="center")
    order = sorted((at for at, far in enumerate(inside) if not far), key=lambda at: -ends[at][1])
    for at, y in zip(order, spread([min(ends[at][1], 1) for at in order], 13 / height)):
        xs, ys, marker = [1 + 14 / width], [y], lines[at].style.marker
        if lines[at].joined:
            xs, ys, marker = [ends[at][0] + 4 / width, 1 + 8 / width, 1 + 18 / width], [ends[at][1], y, y], ""
        axes.plot(xs, ys, color=theme.color(lines[at].style.color), linewidth=0.8, marker=marker, markersize=5,
                  transform=axes.transAxes, clip_on=False)
        axes.annotate(lines[at].label, (1 + 22 / width, y), xycoords="axes fraction", color=theme.ink, fontsize=SMALL,
                      va="center", annotation_clip=False)


def spread(wanted, gap):
    """Heights near the wanted ones, which fall, at least `gap` apart and, as far as there is room, above 0."""
    heights = []
    for want in wanted:
        heights.append(min(want, heights[-1] - gap) if heights else want)
    if heights and heights[-1] < 0:  # from the lowest upwards, each as low as it may
        heights[-1] = 0
        for at in range(len(heights) - 2, -1, -1):
            heights[at] = max(heights[at], heights[at + 1] + gap)
    return heights


# ---- Rows of ratios

def ratio_axis(axes, values, label):
    axes.set_xscale("log")
    low, high = min(values), max(values)
    room = max(1.05, (high / low) ** 0.04)  # for half a marker
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(FixedLocator(round_numbers(low / room, high * room)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_xlabel(label)


def draw_gains(figure, theme):
    left, right = 3.0, 1.5
    groups = {}
    for gain in figure.gains:
        groups.setdefault(gain.group, []).append(gain)
    lines = len(figure.gains) + len(groups)
    sheet = Sheet(figure, theme, ROW * lines)
    axes = sheet.axes(left, 0, WIDTH - left - right, ROW * lines)
    ratio_axis(axes, [value for gain in figure.gains for value in (gain.ideal, gain.measured)] + [1],
               f"{figure.axis}: filled measured, open ideal")
    axes.set_ylim(0.4 - lines, 0.6)
    axes.axvline(1, color=theme.muted, linewidth=1)
    y = 0
    for group, gains in groups.items():
        sheet.beside(axes, EDGE, y, group, fontweight="bold", bbox={"facecolor": theme.paper, "linewidth": 0, "pad": 1})
        y -= 1
        for gain in gains:
            color, marker = (results.BLUE, "o") if gain.measured >= 1 else (results.VERMILLION, "s")
            axes.plot([gain.ideal, gain.measured], [y, y], color=theme.color(color), linewidth=1.2)
            for value, face in ((gain.ideal, theme.paper), (gain.measured, theme.color(color))):
                axes.plot([value], [y], marker=marker, markersize=6, markerfacecolor=face, color=theme.color(color))
            sheet.beside(axes, left - EDGE, y, gain.label, ha="right")
            sheet.beside(axes, WIDTH - right + 0.1, y, times(gain.measured))
            sheet.beside(axes, WIDTH - right + 0.6, y, f"ideal {times(gain.ideal)}")
            y -= 1
    dress(axes, theme, "x")
    return sheet.canvas


def draw_forest(figure, theme):
    rows = figure.forest
    right = 0.7
    left = min(0.3 + CHARACTER * max(len(row.label) for row in rows), WIDTH - right - LEAST_FOREST)
    sheet = Sheet(figure, theme, ROW * len(rows))
    axes = sheet.axes(left, 0, WIDTH - left - right, ROW * len(rows))
    known = [value for row in rows for value in (row.low, row.high, row.ratio, row.left) if value]
    ratio_axis(axes, [*known, 1 / 1.05, 1.05], shortened(figure.axis, WIDTH - left - right))
    axes.set_ylim(0.4 - len(rows), 0.6)
    for at, row in enumerate(rows):
        if row.floor:
            axes.barh([-at], [row.floor - 1 / row.floor], left=[1 / row.floor], height=0.8, color=theme.grid)
        if row.low:
            axes.plot([row.low, row.high], [-at, -at], color=theme.color(results.BLUE), linewidth=1.8)
        axes.plot([row.ratio], [-at], marker="o", markersize=5, color=theme.color(results.BLUE))
        if row.left:
            axes.plot([row.left], [-at], marker="D", markersize=5, markerfacecolor=theme.paper,
                      markeredgecolor=theme.color(results.VERMILLION))
        sheet.beside(axes, left - EDGE, -at, shortened(row.label, left - 0.3), ha="right")
        sheet.beside(axes, WIDTH - right + 0.1, -at, times(row.ratio))
    axes.axvline(1, color=theme.muted, linewidth=1)
    dress(axes, theme, "x")
    return sheet.canvas


# ---- Stacked bars

def draw_bars(figure, theme):
    left, right, height = 2.2, 0.9, 0.36 * len(figure.bars)
    sheet = Sheet(figure, theme, height + BAR_LEGEND)
    axes = sheet.axes(left, 0, WIDTH - left - right, height)
    looks = {name: {"facecolor": theme.color(color), "hatch": hatch, "edgecolor": theme.paper, "linewidth": 0.6}
             for name, (color, hatch) in PARTS.items()}
    for at, bar in enumerate(figure.bars):
        end = 0
        for name, value in bar.parts:
            axes.barh([-at], [value], left=[end], height=0.72, **looks[name])
            end += value
        axes.plot([bar.total] * 2, [-at - 0.45, -at + 0.45], color=theme.ink, linewidth=2)
        axes.annotate(short_time(bar.total), (max(end, bar.total), -at), (6, 0), textcoords="offset points",
                      color=theme.ink, fontsize=SMALL, va="center", annotation_clip=False)
    axes.set_yticks([-at for at in range(len(figure.bars))], [bar.label for bar in figure.bars])
    axes.set_ylim(0.4 - len(figure.bars), 0.6)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: bare(short_time(x)) if x else "0"))
    axes.set_xlabel(figure.axis)
    dress(axes, theme, "x")
    axes.tick_params(axis="y", labelcolor=theme.ink, length=0)
    there = {name for bar in figure.bars for name, _ in bar.parts}
    sheet.canvas.legend(handles=[Patch(label=name, **look) for name, look in looks.items() if name in there],
                        loc="upper left", bbox_to_anchor=(0.01, (sheet.top + 0.12) / sheet.height), ncols=len(there),
                        frameon=False, labelcolor=theme.ink, handlelength=1.2, columnspacing=1.0, borderpad=0)
    return sheet.canvas


# ---- Files

def draw(figure, theme):
    """matplotlib's figure of one of ours."""
    if figure.panels:
        return draw_panels(figure, theme)
    if figure.gains:
        return draw_gains(figure, theme)
    if figure.bars:
        return draw_bars(figure, theme)
    if figure.forest:
        return draw_forest(figure, theme)
    return Sheet(figure, theme, 0.1).canvas  # the notes are all there is


def render(figure, theme):
    """A picture as SVG, a text, and as PNG, bytes."""
    svg, png = io.StringIO(), io.BytesIO()
    with plt.rc_context(STYLE):
        canvas = draw(figure, theme)
        canvas.savefig(svg, format="svg", metadata={"Date": None})
        canvas.savefig(png, format="png", dpi=200, metadata={"Description": figure.alt})
        plt.close(canvas)
    return described(svg.getvalue(), figure), png.getvalue()


def described(svg, figure):
    """With the alt text where screen readers look for it, names that differ from those of other figures on a page, and
    hundredths of a point."""
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{figure.name}-", svg)
    title, description = f"{figure.name}-title", f"{figure.name}-description"
    at = svg.index(">", svg.index("<svg"))
    return (f'{svg[:at]} role="img" aria-labelledby="{title} {description}"><title id="{title}">{escape(figure.title)}'
            f'</title><desc id="{description}">{escape(figure.alt)}</desc>{svg[at + 1:]}')


def figures_folder(path):
    """Where the figures of a result file are, unless it is said."""
    return pathlib.Path(path).with_name(pathlib.Path(path).stem + "-figures")


def words_file(folder):
    """Of the figures' words and data."""
    return folder / "figures.json"


def write(figures, folder):
    """Every figure as NAME-light.svg, NAME-light.png and the same in dark; their words and data in figures.json. Gives
    {name: the SVG on light paper}."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for figure in figures:
        for theme in (DARK, LIGHT):
            svg, png = render(figure, theme)
            (folder / f"{figure.name}-{theme.name}.svg").write_text(svg, encoding="utf-8")
            (folder / f"{figure.name}-{theme.name}.png").write_bytes(png)
            pictures[figure.name] = svg  # the last is the one on light paper
    words = [{"name": figure.name, "title": figure.title, "alt": figure.alt, "notes": figure.notes,
              "drawn": figure.drawn, "data": figure.data} for figure in figures]
    words_file(folder).write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return pictures


def compared(paths):
    """The first file with each of the others."""
    base, *others = map(load_side, paths)
    return [compare(base, other) for other in others]


def forests(comparisons):
    return list(map(forest_of, comparisons, numbered(["forest"] * len(comparisons))))


def main(arguments=None):
    parser = Parser(prog="plot.py", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files of bench_mla run")
    parser.add_argument("--out", help="the folder of the figures (default: beside the first file, FILE-figures)")
    parser.add_argument("--only", help=f"some of {', '.join([*FIGURES, 'forest'])}")
    for flag in ("model", "dtype", "impl"):
        parser.add_argument(f"--{flag}", help=f"the {flag} that is drawn (default: the one of most rows)")
    options = parser.parse_args(arguments)
    try:
        known = [*FIGURES, "forest"]
        only = known if options.only is None else options.only.split(",")
        if not set(only) <= set(known):
            raise Unusable(f"--only: expected any of {', '.join(known)}, got {options.only!r}")
        if options.out == "":
            raise Unusable("--out: expected a folder, got ''")
        views = [view_of(results.load(file), options.model, options.dtype, options.impl) for file in options.files]
        out = pathlib.Path(options.out) if options.out else figures_folder(options.files[0])
        drawn = {}  # by folder
        for view, name in zip(views, numbered([pathlib.Path(file).stem for file in options.files])):
            folder = out / name if len(options.files) > 1 else out
            drawn[folder] = [figure_of(name, view) for name in FIGURES if name in only]
        if len(options.files) > 1 and "forest" in only:
            drawn[out] = forests(compared(options.files))
        results.spare(options.files, map(words_file, drawn))
        for folder, figures in drawn.items():
            with writing(f"--out: {folder}", "a folder"):
                write(figures, folder)
            with standard_output() as printed:
                print(f"{folder}: {', '.join(figure.name for figure in figures if figure.drawn)}", file=printed)
                for figure in figures:
                    if not figure.drawn:
                        print(f"  {figure.name}: {' '.join(figure.notes)}", file=printed)
    except Unusable as problem:
        print(f"plot.py: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
