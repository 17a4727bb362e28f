"""The pictures of the pages in `docs/explanation/`: `python docs/figures.py` draws them anew.

    python docs/figures.py [NAME …] [--folder docs/explanation] [--look white|black]

The searches in them are simulated: the real back ends and the real driver, on a space of two hyperparameters whose best
values are known. Bars are drawn from the tables of the pages. Colours are readable on a light page and on a dark one.
With `--look` PNG files on that background are written, for a look at the pictures.

The pictures need Matplotlib, which MLflow brings along. `gp` in the picture of samplers needs PyTorch.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from search.backends.base import BackEnd
from search.backends.freeze_thaw.candidates import Space
from search.backends.freeze_thaw.decision import Model
from search.backends.freeze_thaw.fitting import Fits
from search.backends.freeze_thaw.memory import Memory
from search.backends.freeze_thaw.observations import FLOOR
from search.backends.freeze_thaw.surrogate import NEW, observe
from search.backends.registry import make_backend
from search.backends.rungs import RungModel
from search.plots.figures import COLORS, GREY
from search.scheduler.limits import Limits
from search.study.history import Segment
from search.study.records import Computed, ResultTold, SegmentRequested
from search.study.trial import Objective, derive_seed
from search.study.trials import Trial
from search.testing import Simulation
from search.testing.simulation import Hp, Scenario

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parent
OBJECTIVE = Objective("val_accuracy", "max")
MAX_EPOCHS = 27
RUNG_COLORS = (COLORS[4], COLORS[0], COLORS[2], COLORS[1])
"""The colour of each rung: 1, 3, 9 and 27 epochs."""
FAINT = "#7777775a"
BAR = "#77777790"
BEST = math.log10(0.003), math.log2(96)
"""The best values of the simulated space: log10 of `lr` and log2 of `units`."""


# The simulated space --------------------------------------------------------------------------------------------------


def quality(log_lr: Any, log_units: Any) -> Any:
    """Return the final accuracy; arrays give arrays."""
    lr, units = (log_lr - BEST[0]) / 1.5, (log_units - BEST[1]) / 2.0
    return 0.97 - 0.55 * (1 - np.exp(-0.5 * (lr**2 + 0.5 * units**2 + 0.5 * lr * units)))


def place(run: Any) -> tuple[float, float]:
    """Return log10 of `lr` and log2 of `units`."""
    return math.log10(run["lr"]), math.log2(run["units"])


def value(run: Any, epoch: int) -> float:
    """Return the accuracy after `epoch`: a curve that rises the later, the smaller the learning rate is."""
    log_lr, log_units = place(run)
    luck = np.random.default_rng(derive_seed(run.seed, "luck")).normal() * 0.015
    noise = np.random.default_rng(derive_seed(run.seed, "noise", epoch)).normal() * 0.008
    slowness = 1.2 + 1.4 * (-1 - log_lr) + 0.3 * (9 - log_units)
    end = float(quality(log_lr, log_units)) + luck
    return 0.1 + (end - 0.1) * (1 - math.exp(-((epoch / slowness) ** 0.7))) + noise


def end_value(run: Any, epoch: int) -> float:
    """Return the final accuracy, after any epoch."""
    return float(quality(*place(run)))


def ask(hp: Hp) -> None:
    """Ask for the two values, each from a fine grid, so that any sampler can draw them."""
    hp.Float("lr", 1e-4, 1e-1, sampling="log")
    hp.Int("units", 16, 512, sampling="log")


def ask_in_steps(hp: Hp) -> None:
    """Ask for six values of one and five of the other: thirty configurations."""
    hp.Choice("lr", [float(f"{10**power:.3g}") for power in np.linspace(-4, -1, 6)])
    hp.Choice("units", [round(2**power) for power in np.linspace(4, 9, 5)])


WITH_CURVES = Scenario(ask, value, seconds=lambda run: 0.8 + 0.4 * run.random("pace").random())


def simulate(
    name: str,
    *,
    seed: int = 1,
    slots: int = 1,
    epochs: int | None = None,
    trials: int | None = None,
    scenario: Scenario = WITH_CURVES,
    **options: Any,
) -> Simulation:
    """Return a search by the back end `name`, not yet run.

    Args:
        epochs, trials: the limits of the search.
        scenario: the space and its training.
        options: of the back end.
    """
    options = {"max_epochs": MAX_EPOCHS} | options

    def make(study: Any) -> BackEnd:
        return make_backend(name, options, OBJECTIVE, seed, scenario.parameters())

    return Simulation(
        scenario,
        make,
        objective=OBJECTIVE,
        seed=seed,
        slots=slots,
        max_epochs=MAX_EPOCHS,
        limits=Limits(max_total_epochs=epochs, max_trials=trials),
    )


def curve(trial: Trial) -> list[float]:
    return [epoch.logs[OBJECTIVE.name] for epoch in trial.curve]


# Look -----------------------------------------------------------------------------------------------------------------


def axes(columns: int = 1, *, height: float = 3.0, rows: int = 1, **more: Any) -> tuple[Any, list[Any]]:
    """Return a figure of a page's width, and its axes in reading order."""
    figure, found = plt.subplots(rows, columns, figsize=(8, height), squeeze=False, layout="constrained", **more)
    flat = list(found.flat)
    for one in flat:
        one.set_facecolor("none")
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
        one.grid(color="#7f7f7f", alpha=0.2, linewidth=0.6)
        one.set_axisbelow(True)
    return figure, flat


def rung_axis(axis: Any, of: Any, epochs: Sequence[int] = (1, 3, 9, 27)) -> None:
    """Make `of`, an axis of `axis`, a logarithmic one with a tick at each rung."""
    (axis.set_xscale if of is axis.xaxis else axis.set_yscale)("log")
    of.set_ticks(epochs, [str(epoch) for epoch in epochs])
    of.set_ticks([], minor=True)


def legend(axis: Any, entries: Sequence[tuple[str, dict[str, Any]]], **more: Any) -> None:
    """Write a legend of lines with these labels and styles."""
    handles = [plt.Line2D([], [], label=label, **style) for label, style in entries]
    axis.legend(handles=handles, frameon=False, labelcolor=GREY, handlelength=1.4, **more)


# Pictures -------------------------------------------------------------------------------------------------------------


def draw_hyperband() -> Any:
    """Draw the trials of a whole plan, and the curves of its first bracket."""
    trials = simulate("hyperband", slots=4).run().trials
    figure, (plan, curves) = axes(2)
    at, ticks = 0.0, []
    for bracket in range(4):
        members = sorted((t for t in trials if t.progress.bracket == bracket), key=lambda t: (-t.epochs, t.number))
        ticks.append(at + (len(members) - 1) / 2)
        for trial in members:
            low = 0.7
            for high, color in zip((1, 3, 9, 27), RUNG_COLORS, strict=True):
                if low < trial.epochs:
                    plan.bar(at, min(high, trial.epochs) - low, bottom=low, width=0.8, color=color)
                    low = high
            at += 1
        at += 2
    rung_axis(plan, plan.yaxis)
    plan.set(title="The plan: 49 trials, a bar each", ylabel="epochs trained", xlabel="bracket")
    plan.set_xticks(ticks, ["0", "1", "2", "3"])
    plan.grid(axis="x", visible=False)
    for trial in trials:
        if trial.progress.bracket == 0:
            found = curve(trial)
            color = RUNG_COLORS[(1, 3, 9, 27).index(trial.epochs)]
            curves.plot(range(1, len(found) + 1), found, color=color, linewidth=1.3, alpha=0.9)
            curves.plot(len(found), found[-1], "o", color=color, markersize=3)
    rung_axis(curves, curves.xaxis)
    curves.set(title="Bracket 0: the best third goes on", xlabel="epoch", ylabel="val_accuracy")
    ends = [(f"ended after {n}", {"color": c}) for n, c in zip((1, 3, 9, 27), RUNG_COLORS, strict=True)]
    legend(curves, ends, loc="lower right", fontsize=8)
    return figure


def draw_asha() -> Any:
    """Draw the rungs of ASHA at the end of a search, and what each of four workers did."""
    simulation = simulate("asha", slots=4, epochs=220).run()
    figure, (rungs, timeline) = axes(2)
    epochs = (1, 3, 9, 27)
    for index, at in enumerate(epochs):
        reached = [t for t in simulation.trials if t.epochs >= at]
        bests = np.array([max(curve(trial)[:at]) for trial in reached])
        x = np.array([at * 1.35 ** ((number % 7 - 3) / 6) for number in range(len(reached))])
        promoted = np.array([trial.epochs > at or at == epochs[-1] for trial in reached])
        for chosen, face in ((promoted, RUNG_COLORS[index]), (~promoted, "none")):
            rungs.scatter(x[chosen], bests[chosen], s=24, facecolors=face, edgecolors=RUNG_COLORS[index])
    rung_axis(rungs, rungs.xaxis)
    rungs.set(title="The rungs", xlabel="rung, in epochs", ylabel="best val_accuracy so far")
    shown = [("was promoted", {"markerfacecolor": GREY}), ("waits", {"markerfacecolor": "none"})]
    styles = [(text, style | {"marker": "o", "linestyle": "", "markeredgecolor": GREY}) for text, style in shown]
    legend(rungs, styles, loc="lower right", fontsize=8)
    draw_timeline(timeline, list(simulation.study.history.segments), first=40)
    return figure


def draw_timeline(axis: Any, segments: Sequence[Segment], first: float) -> None:
    """Draw the segments of the `first` seconds, a row for each worker."""
    for segment in segments:
        begun = segment.begun
        if begun.seconds < first:
            width = min(segment.seconds, first) - begun.seconds
            color = RUNG_COLORS[begun.rung or 0]
            axis.barh(begun.slot, width, left=begun.seconds, height=0.75, color=color, edgecolor=GREY, linewidth=0.4)
    axis.set_yticks(range(4), [f"worker {slot}" for slot in range(4)])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(title="The first 40 seconds: no worker waits", xlabel="seconds", xlim=(0, first))
    rungs = [(f"to {n}", {"color": c, "linewidth": 5}) for n, c in zip((1, 3, 9, 27), RUNG_COLORS, strict=True)]
    legend(axis, rungs, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=8)


def draw_pruners() -> Any:
    """Draw the curves of trials that two of Optuna's pruners have judged."""
    figure, found = axes(2, sharey=True)
    for axis, pruner, title in zip(
        found, ("median:n_startup_trials=4", "asha"), ("pruner median", "pruner asha"), strict=True
    ):
        trials = simulate("optuna", seed=3, trials=24, sampler="random", pruner=pruner).run().trials
        for trial in trials:
            values = curve(trial)
            whole = trial.epochs == MAX_EPOCHS
            color = COLORS[0] if whole else COLORS[5]
            axis.plot(range(1, len(values) + 1), values, color=color, linewidth=1.2, alpha=0.9)
            axis.plot(len(values), values[-1], "o" if whole else "x", color=color, markersize=4)
        epochs = sum(trial.epochs for trial in trials)
        axis.set(title=f"{title}: {epochs} epochs, not {24 * MAX_EPOCHS}", xlabel="epoch")
    found[0].set_ylabel("val_accuracy")
    styles = [
        ("trained to the end", {"color": COLORS[0], "marker": "o", "markersize": 4}),
        ("stopped", {"color": COLORS[5], "marker": "x", "markersize": 4}),
    ]
    legend(found[1], styles, loc="lower right", fontsize=8)
    return figure


def draw_samplers() -> Any:
    """Draw the configurations that each of six samplers tries."""
    figure, found = axes(3, rows=2, height=5.2, sharex=True, sharey=True)
    grid = np.meshgrid(np.linspace(-4, -1, 22), np.linspace(4, 9, 22))
    for axis, sampler in zip(found, ("random", "grid", "qmc", "tpe", "gp", "cmaes"), strict=True):
        scenario = Scenario(ask_in_steps if sampler == "grid" else ask, end_value)
        simulation = simulate("optuna", trials=30, scenario=scenario, sampler=sampler, pruner="none", max_epochs=1)
        trials = simulation.run().trials
        axis.contour(*grid, quality(*grid), levels=[0.6, 0.8, 0.9, 0.95], colors=FAINT, linewidths=0.8)
        at = np.array([place(trial.params) for trial in trials])
        axis.scatter(
            at[:, 0], at[:, 1], c=range(len(at)), cmap="viridis_r", s=14, vmin=-6, vmax=36, clip_on=False, zorder=3
        )
        near = sum(float(quality(*point)) > 0.95 for point in at)
        axis.set_title(f"{sampler}: {near} of 30 above 0.95")
        axis.grid(visible=False)
    found[0].set_xticks([-4, -3, -2, -1], ["1e-4", "1e-3", "0.01", "0.1"])
    found[0].set_yticks([4, 5, 6, 7, 8, 9], ["16", "32", "64", "128", "256", "512"])
    for axis in found[3:]:
        axis.set_xlabel("lr")
    for axis in found[::3]:
        axis.set_ylabel("units")
    return figure


def draw_rungs() -> Any:
    """Draw how many scores each budget has, and the budget whose scores the sampler learns from."""
    simulation = simulate("hyperband", sampler="tpe", slots=2, iterations=2).run()
    model = RungModel(OBJECTIVE, 1, "tpe", (1, 3, 9, 27), simulation.scenario.parameters())
    counts: list[list[int]] = []
    modelled: list[int] = []
    for record in simulation.records:
        if isinstance(record, SegmentRequested) and record.from_epoch == 0:
            counts.append([len(scores) for scores in model.observations.values()])
            modelled.append(model.modelled_budget)
        model.apply(record)
    figure, (axis,) = axes(1, height=2.8)
    trials = np.arange(len(counts))
    for index, (budget, color) in enumerate(zip((1, 3, 9, 27), RUNG_COLORS, strict=True)):
        axis.plot(trials, [row[index] for row in counts], color=color, linewidth=1.6)
        used = [t for t, found in zip(trials, modelled, strict=True) if found == budget]
        axis.plot(used, [-6] * len(used), "s", color=color, markersize=4, clip_on=False)
    axis.axhline(10, color=GREY, linewidth=0.9, linestyle="--")
    for height, text in ((10, " enough: 10"), (-6, " learned from")):
        axis.text(len(trials) + 1, height, text, color=GREY, va="center", fontsize=8)
    axis.set(xlabel="new trial", ylabel="trials with a score", ylim=(-10, None), xlim=(-1, len(trials) + 1))
    legend(
        axis,
        [(f"at epoch {n}", {"color": c}) for n, c in zip((1, 3, 9, 27), RUNG_COLORS, strict=True)],
        loc="upper left",
        fontsize=8,
    )
    return figure


def draw_freeze_thaw() -> Any:
    """Draw the predictions of one moment of a search, and the worth of each training."""
    simulation = simulate("freeze-thaw", seed=5, cost="epochs", epochs=300)
    simulation.run(until=lambda record: isinstance(record, ResultTold) and simulation.study.epochs >= 90)
    memory, fits = Memory(OBJECTIVE, simulation.scenario.parameters(), MAX_EPOCHS), Fits()
    for record in simulation.records:
        fits.apply(record) if isinstance(record, Computed) else memory.apply(record)
    rng = np.random.default_rng(0)
    model = Model(memory, fits.hyperparameters, MAX_EPOCHS, by_seconds=False, rng=rng)
    paused = memory.paused(200)
    scores = worths(model, memory, paused)
    found = Space(memory, 5).best(lambda table: worth(model, table, [NEW] * len(table)), rng)
    assert found is not None
    ranked = sorted(zip(scores, paused, strict=True), reverse=True)
    entries = [*ranked[:4], ranked[-1], (found[0], NEW)]
    figure, (curves, bars) = axes(2, gridspec_kw={"width_ratios": [3, 2]}, height=3.6)
    for trial in memory.trials:
        curves.plot(range(1, trial.curve.epochs + 1), trial.curve.values, color=FAINT, linewidth=1.2)
    chosen = [(entries[0][1], COLORS[0]), (ranked[-1][1], COLORS[5]), (NEW, COLORS[1])]
    for at, color in chosen:
        draw_prediction(curves, model, memory, at, color, found[1])
    curves.axhline(max(trial.curve.best for trial in memory.trials), color=GREY, linewidth=0.9, linestyle="--")
    curves.set(
        title="What the model expects", xlabel="epoch", ylabel="val_accuracy", xlim=(0.5, 27.5), ylim=(0.35, 1.0)
    )
    top = max(score for score, _ in entries)
    for row, (score, at) in enumerate(sorted(entries, reverse=True)):
        color = dict(chosen).get(at, FAINT)
        bars.barh(row, math.exp(score - top), color=color, height=0.7)
    names = [
        "a new one" if at == NEW else f"trial {memory.trials[at].number}" for _, at in sorted(entries, reverse=True)
    ]
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set(title="Expected improvement per cost", xlabel="share of the best one's")
    return figure


def worth(model: Model, table: Any, places: Sequence[int]) -> Any:
    """Return the log expected improvement per cost of trainings."""
    return model.improvements(table, places) - np.log(model.costs.of(table, places))


def worths(model: Model, memory: Memory, places: Sequence[int]) -> list[float]:
    return [float(score) for score in worth(model, memory.table(places), places)]


def draw_prediction(axis: Any, model: Model, memory: Memory, at: int, color: str, row: Any) -> None:
    """Draw the curve of a trial and the model's prediction of its rest: the mean, and two standard deviations."""
    begun = 0 if at == NEW else memory.trials[at].curve.epochs
    if begun:
        axis.plot(range(1, begun + 1), memory.trials[at].curve.values, color=color, linewidth=2)
        axis.plot(begun, memory.trials[at].curve.values[-1], "o", color=color, markersize=4)
    epochs = np.arange(max(begun, 1), MAX_EPOCHS + 1, dtype=float)
    table = np.repeat(row[None, :] if at == NEW else memory.table([at]), len(epochs), axis=0)
    mean, sd = model.predict(table, [at] * len(epochs), epochs)
    observed = observe(memory, MAX_EPOCHS, np.random.default_rng(0))
    assert observed is not None
    warp = observed.warp

    def back(z: Any) -> Any:
        return warp.top - warp.spread * (np.exp(-(z * warp.sd + warp.mean)) - FLOOR)

    axis.plot(epochs, back(mean), color=color, linewidth=1.4, linestyle=":")
    axis.fill_between(epochs, back(mean - 2 * sd), back(mean + 2 * sd), color=color, alpha=0.16, linewidth=0)


CONTENDERS = {
    "search, 2 workers": "search",
    "KerasTuner Hyperband": "KerasTuner",
    "Optuna TPE + Hyperband pruner, 2 processes": "Optuna",
    "Ray Tune ASHA, 2 actors": "Ray Tune",
    "our trials, plain `model.fit`, 1 process": "model.fit",
    "our trials, fused, no framework, 2 processes": "fused loop",
    "arithmetic only": "arithmetic",
}
"""The rows of the table on the page about speed, and their names in its picture."""


# Bars from the tables of pages ----------------------------------------------------------------------------------------


def table_after(page: str, start: str) -> list[list[str]]:
    """Return the cells of the first table after the line of `page` that begins with `start`, the head first."""
    lines = (DOCS / page).read_text().splitlines()
    rest = lines[next(i for i, line in enumerate(lines) if line.startswith(start)) :]
    first = next(i for i, line in enumerate(rest) if line.startswith("|"))
    last = next((i for i, line in enumerate(rest[first:], first) if not line.startswith("|")), len(rest))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest[first:last]]
    return [rows[0], *rows[2:]]


def draw_regret() -> Any:
    """Draw the regret of each method on LCBench by the epochs spent."""
    head, *rows = table_after("benchmarks.md", "LCBench's twelve tasks")
    epochs = [int(cell) for cell in head[1:-1]]
    figure, (axis,) = axes(1, height=3.4)
    styles = {"freeze-thaw": (COLORS[2], "-"), "hyperband": (COLORS[0], "-"), "asha": (COLORS[1], "-")}
    others = iter([(COLORS[3], "--"), (GREY, ":"), (COLORS[4], "--"), (COLORS[4], ":"), (COLORS[4], "-.")])
    for name, *cells in rows:
        color, line = styles[name] if name in styles else next(others)
        found = [[float(part) for part in cell.split("±")] for cell in cells[:-1]]
        means, errors = np.array(found).T
        width = 2.0 if name in styles else 1.3
        axis.errorbar(epochs, means, errors, color=color, linestyle=line, linewidth=width, elinewidth=0.8, label=name)
    axis.set_xscale("log")
    axis.set_xticks(epochs, [f"{epoch:,}" for epoch in epochs])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="epochs spent", ylabel="normalised regret", ylim=(-0.06, 0.9))
    axis.legend(frameon=False, labelcolor=GREY, fontsize=8, ncols=2, loc="upper right")
    return figure


def draw_speed() -> Any:
    """Draw the seconds of the searches of four problems, as bars."""
    head, *rows = table_after("explanation/speed.md", "Seconds of the search")
    figure, found = axes(4, height=2.5, sharey=True)
    for column, axis in enumerate(found, 1):
        seconds = [float(match[0]) if (match := re.search(r"[\d.]+", cells[column])) else 0.0 for cells in rows]
        axis.barh(range(len(rows)), seconds, color=[COLORS[0], *[BAR] * (len(rows) - 1)], height=0.7)
        for row, length in enumerate(seconds):
            axis.text(length, row, f" {length:.0f}" if length else " not run", color=GREY, va="center", fontsize=7)
        axis.grid(axis="y", visible=False)
        axis.set(xlabel="seconds", xlim=(0, max(seconds) * 1.25))
        axis.set_title(head[column].replace("larger CNN", "large CNN"), fontsize=9)
    found[0].set_yticks(range(len(rows)), [CONTENDERS[cells[0]] for cells in rows], fontsize=8)
    found[0].invert_yaxis()
    return figure


def smaller(svg: str) -> str:
    """Return the text of an SVG file with numbers of one decimal and without what is not drawn."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE.*?>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=[ \"(])-?\d+\.\d{2,}(?=[ \"),\n])", lambda match: f"{float(match[0]):.1f}", svg)
    svg = re.sub(r" id=\"(?:patch|line2d|text|xtick|ytick|\w+Collection|legend)_\d+\"", "", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).lstrip()


PICTURES: dict[str, Callable[[], Any]] = {
    "hyperband": draw_hyperband,
    "asha": draw_asha,
    "rungs": draw_rungs,
    "freeze-thaw": draw_freeze_thaw,
    "samplers": draw_samplers,
    "pruners": draw_pruners,
    "regret": draw_regret,
    "speed": draw_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--folder", type=Path, default=DOCS / "explanation")
    parser.add_argument("--look", choices=("white", "black"))
    arguments = parser.parse_args()
    plt.rcParams |= {
        "font.size": 9,
        "axes.titlesize": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "search",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    }
    for name in arguments.names or PICTURES:
        figure = PICTURES[name]()
        if arguments.look:
            dark = {"white": "#ffffff", "black": "#131416"}[arguments.look]
            figure.savefig(arguments.folder / f"{name}-{arguments.look}.png", facecolor=dark, dpi=110)
        else:
            path = arguments.folder / f"{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            path.write_text(smaller(path.read_text()))
            print(f"{path.name}: {path.stat().st_size // 1000} kB")
        plt.close(figure)


if __name__ == "__main__":
    main()
