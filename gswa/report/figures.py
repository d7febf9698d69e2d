"""The four plots of a run, drawn on Figure objects of their own: no global state, so that any thread may draw.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), told apart by every kind of colour vision.
"""

import difflib
import io
import itertools
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gswa.errors import ConfigError
from gswa.files import write_atomically
from gswa.lengths import bin_width
from gswa.records import EvalMetrics, StepMetrics
from gswa.report import findings
from gswa.report.measures import HELD_OUT, config_of, memory_limit_gb, predicted_memory_gb
from gswa.rundir import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, SKY, GREEN, RED, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"
INK, GREY, LIGHT = "#1c2430", "#5b6675", "#e3e7ec"
MOST_POINTS = 2000  # a line of more points than pixels only makes the file larger
OFF_SCALE = 4.0  # a limit this many times the peak would flatten the curve: it is written at the top edge instead


# -- files -------------------------------------------------------------------------------------------------------------
def write_plots(
    run: RunDir, plots: Collection[str] = ("loss", "throughput", "memory", "length_distribution"), dpi: int = 110
) -> list[Path]:
    """plots/<name>.png for each name. Raises ConfigError for a name that is no plot."""
    paths = []
    for name in check_plots(plots):
        path = run.plots / f"{name}.png"
        write_atomically(path, png(PLOTS[name](run), dpi))
        paths.append(path)
    return paths


def check_plots(names: Collection[str]) -> list[str]:
    """The names, each once. Raises ConfigError that names the nearest plot."""
    for name in names:
        if name not in PLOTS:
            near = difflib.get_close_matches(name, list(PLOTS), n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"the plots are: {', '.join(PLOTS)}"
            raise ConfigError(f"--plots: unknown plot '{name}'; {hint}")
    return list(dict.fromkeys(names))


def png(figure: "Figure", dpi: int) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def svg(figure: "Figure") -> bytes:
    """Text as outlines, so that it looks the same on a machine without the font; the same bytes for the same run."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "gswa"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


# -- plots -------------------------------------------------------------------------------------------------------------
def draw_loss(run: RunDir) -> "Figure":
    """Train blue with its moving average, held-out green, out-of-memory marks red dashed."""
    steps, valid, test = run.steps(), run.evaluations("valid"), run.evaluations("test")
    held_out = "; ".join(filter(None, (findings.held_out_finding(split, *losses(run)) for split, losses in HELD_OUT.items())))
    figure, axes = _canvas(findings.loss_finding(steps), held_out, "optimizer step", "loss (nats per target token)")
    _series(axes, steps, [step.train_loss for step in steps], "train")
    _evaluations(axes, valid, "valid", "o", "-")
    _evaluations(axes, test, "test", "D", ":")
    chosen = [metrics for metrics in valid if metrics.step == run.metadata().get("chosen_step")]
    _evaluations(axes, chosen, f"adapter taken at step {chosen[0].step}" if chosen else "", "o", "", markersize=13, markerfacecolor="none")
    return _finish(run, figure, axes, empty=not (steps or valid or test))


def draw_throughput(run: RunDir) -> "Figure":
    steps = run.steps()
    rates = [step.tokens_per_sec for step in steps]
    figure, axes = _canvas(findings.throughput_finding(steps), "", "optimizer step", "non-padding tokens per second")
    _series(axes, steps, rates, "each step")
    if len(steps) > 1:
        axes.axhline(statistics.median(rates), color=ORANGE, linewidth=1.4, linestyle="-.", label="median")
    if steps:
        axes.set_ylim(0, max(rates) * 1.15 or 1)
    return _finish(run, figure, axes, empty=not steps)


def draw_memory(run: RunDir) -> "Figure":
    """Filled: the peak of each step; the limit and the predicted peak as lines."""
    steps, evaluations = run.steps(), [*run.evaluations("valid"), *run.evaluations("test")]
    limit, predicted = memory_limit_gb(run), predicted_memory_gb(run)
    peaks = [step.peak_memory_gb for step in steps] + [metrics.peak_memory_gb for metrics in evaluations]
    figure, axes = _canvas(findings.memory_finding(peaks, limit), "", "optimizer step", "peak memory (GB of 2³⁰ bytes)")
    if steps:
        at, heights = _thinned([step.step for step in steps], [step.peak_memory_gb for step in steps], max)
        at, heights = [at[0] - 0.5, *at, at[-1] + 0.5], [heights[0], *heights, heights[-1]]
        axes.fill_between(at, heights, step="mid", color=SKY, alpha=0.35, linewidth=0)
        axes.step(at, heights, where="mid", color=BLUE, linewidth=1.8, label="training")
    if evaluations:
        axes.plot(
            [e.step for e in evaluations], [e.peak_memory_gb for e in evaluations], "o", color=GREEN, markersize=6, label="evaluation"
        )
    if peaks:
        _memory_lines(axes, max(peaks), limit, predicted)
    return _finish(run, figure, axes, empty=not peaks)


def draw_length_distribution(run: RunDir) -> "Figure":
    """Before splitting above, after it below, on one axis of tokens, with the limit."""
    stats, config = run.length_stats().get("all"), config_of(run)
    limit = config.max_seq_length if config else None
    figure, (above, below) = _panels(findings.length_finding(stats, limit), "tokens, as rendered by the chat template")
    for axes, histogram, colour, label in (
        (above, stats.histogram_before if stats else (), ORANGE, "before splitting"),
        (below, stats.histogram_after if stats else (), BLUE, "after splitting"),
    ):
        _histogram(axes, histogram, colour, limit)
        axes.set_title(label, loc="left", fontsize=11, color=GREY)
        axes.set_ylabel("examples" if axes is above else "chunks")
        if limit and histogram:
            axes.axvline(limit, color=INK, linewidth=1.6, label=f"limit: {limit:,} tokens")
            axes.legend(loc="upper right", frameon=False)
        if not histogram:
            _say_empty(axes, "No lengths recorded")
    return figure


PLOTS: dict[str, Callable[[RunDir], "Figure"]] = {
    "loss": draw_loss,
    "throughput": draw_throughput,
    "memory": draw_memory,
    "length_distribution": draw_length_distribution,
}


# -- parts -------------------------------------------------------------------------------------------------------------
def _figure(title: str, subtitle: str, rows: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(8, 4.5), layout=engine, facecolor="white")
    panels = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
    panels[0].set_title(subtitle, loc="left", fontsize=11, color=GREY)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY, labelsize=11)
        axes.grid(axis="y", color=LIGHT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set(color=INK, fontsize=12)
        axes.yaxis.label.set(color=INK, fontsize=12)
    return figure, panels


def _canvas(title: str, subtitle: str, x_label: str, y_label: str) -> tuple["Figure", "Axes"]:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure, (axes,) = _figure(title, subtitle, rows=1)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    return figure, axes


def _panels(title: str, x_label: str) -> tuple["Figure", list["Axes"]]:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure, panels = _figure(title, "", rows=2)
    panels[0].sharex(panels[1])
    panels[0].tick_params(labelbottom=False)
    panels[1].set_xlabel(x_label)
    panels[1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axes in panels:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    return figure, panels


def _series(axes: "Axes", steps: Sequence[StepMetrics], values: list[float], label: str) -> None:
    """The values of each step, and their moving average in the same hue where the run is long enough to have one."""
    if not steps:
        return
    window = findings.smoothing_window(len(steps))
    at = [step.step for step in steps]
    marker = "o" if len(steps) <= 30 else ""
    line = {"color": SKY, "linewidth": 0.9} if window > 1 else {"color": BLUE, "linewidth": 1.8}
    axes.plot(*_thinned(at, values), marker=marker, markersize=4, label=label, **line)  # type: ignore[arg-type]  # the stubs know no **dict
    if window > 1:
        smooth = findings.moving_average(values, window)
        axes.plot(*_thinned(at, smooth), color=BLUE, linewidth=2.2, label=f"{label}, mean of {window} steps")


def _evaluations(axes: "Axes", evaluations: Sequence[EvalMetrics], label: str, marker: str, style: str, **look: Any) -> None:
    if evaluations:
        at, losses = [metrics.step for metrics in evaluations], [metrics.eval_loss for metrics in evaluations]
        axes.plot(at, losses, style, **{"marker": marker, "color": GREEN, "linewidth": 1.8, "markersize": 6, "label": label, **look})


def _memory_lines(axes: "Axes", peak: float, limit: float | None, predicted: float | None) -> None:
    near = [value for value in (limit, predicted) if value and value <= OFF_SCALE * peak]
    top = max([peak, *near]) * 1.15 or 1
    axes.set_ylim(0, top)
    for value, colour, style, name in ((predicted, PURPLE, "-.", "predicted peak"), (limit, INK, "-", "limit")):
        if value:
            far = value > OFF_SCALE * peak
            label = f"{name}: {findings.gb(value)}" + (" (above this scale)" if far else "")
            axes.axhline(top if far else value, color=colour, linewidth=1.6, linestyle=style, label=label)


def _histogram(axes: "Axes", histogram: Sequence[tuple[int, int]], colour: str, limit: int | None) -> None:
    """Bars of the width that the lengths were counted in; bins that are empty are not stored."""
    edges = [edge for edge, _ in histogram]
    width = bin_width(limit) if limit else min((right - left for left, right in itertools.pairwise(edges)), default=1)
    axes.bar(edges, [number for _, number in histogram], width=width, align="edge", color=colour, edgecolor="white", linewidth=0.5)


def _finish(run: RunDir, figure: "Figure", axes: "Axes", empty: bool) -> "Figure":
    """Out-of-memory marks and the legend, or the plain word that there is nothing to show."""
    if empty:
        _say_empty(axes, findings.NO_STEPS)
        return figure
    fallbacks = run.fallbacks()
    label = "out of memory" + (f" ({len(fallbacks)} times)" if len(fallbacks) > 1 else "")
    for event in fallbacks:
        axes.axvline(event.step, color=RED, linewidth=1.5, linestyle="--", label=label)
        label = "_"  # one entry in the legend for all
    last = max([axes.dataLim.x1, 1.0])
    axes.set_xlim(-max(0.5, 0.02 * last), last + max(0.5, 0.02 * last))
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=11)
    return figure


def _say_empty(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def _thinned(
    at: Sequence[float], values: Sequence[float], choose: Callable[[Sequence[float]], float] = lambda group: group[0]
) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS neighbours' groups, each as its first position and what `choose` makes of its values."""
    size = -(-len(values) // MOST_POINTS) or 1
    return list(at[::size]), [choose(values[start : start + size]) for start in range(0, len(values), size)]
