"""The options of a search: their names, defaults, meanings and limits, in one place.

They come from the command line or `search.run` (which win), from the space file's `search_options`, and from defaults.
What a resumed study is not told again, it takes from its journal.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.backends import brackets
from search.backends.registry import NAMES as BACKENDS
from search.backends.registry import OPTIONS as BACKEND_OPTIONS
from search.backends.registry import SAMPLERS as DEFAULT_SAMPLERS
from search.errors import OptionError, nearest
from search.space.domain import Value
from search.study.trial import Objective

EXECUTORS = ("local", "inline")
KERAS_BACKENDS = ("tensorflow", "jax", "torch")
LARGEST_SEED = 2**31 - 1


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, slots=True)
class Options:
    """What a search is told. The field's metadata holds its help and its limits (`low`, `choices`)."""

    study: str | None = _option(None, "the study's name; by default the space file's")
    backend: str = _option("hyperband", "what decides what to try, and how long", choices=BACKENDS)
    objective: str | None = _option(None, "the metric to compare, as an epoch's logs name it: val_accuracy")
    direction: str | None = _option(None, "whether more or less of it is better", choices=("min", "max"))
    max_epochs: int = _option(27, "the most epochs that one trial gets", low=1)
    max_trials: int | None = _option(None, "stop when so many configurations were tried", low=1)
    max_total_epochs: int | None = _option(None, "stop when so many epochs were trained, over all trials", low=1)
    timeout: float | None = _option(None, "stop after this time over all resumes, such as 90s, 30m or 2h", time=True)
    factor: int = _option(3, "of Hyperband and successive halving: one trial in so many goes on", low=2)
    iterations: int = _option(1, "how often to run Hyperband's whole plan", low=1, backend="hyperband")
    sampler: str | None = _option(
        None, "what draws values, one of Optuna's as name or name:key=value,…; by default tpe, hyperband's is random"
    )
    pruner: str = _option("hyperband", "of Optuna: name or name:key=value,…", backend="optuna")
    try_first: tuple[Mapping[str, Value], ...] = _option(
        (), 'what to try before anything is drawn: JSON such as {"lr": 0.01}, or a .json file; repeatable', many=True
    )
    warm_start: str | None = _option(None, "learn from the trials of this study, by its name or its folder")
    executor: str = _option("local", "where trials run: worker processes, or this process", choices=EXECUTORS)
    workers: int | None = _option(None, "how many trials run at once; by default as the machine allows", low=1)
    gpus: str = _option("auto", "auto, none, or GPUs by number or UUID: 0,1")
    gpus_per_trial: float = _option(1.0, "GPUs for each trial; 0.5 lets two share one", low=0, above=True)
    logical_devices: int = _option(
        1, "cut the processor into so many devices for each trial: --gpus-per-trial without GPUs", low=1, high=64
    )
    executions_per_trial: int = _option(1, "how often to train each trial; the objective is the mean", low=1)
    target: float | None = _option(None, "stop when the objective is as good as this")
    seed: int | None = _option(None, "makes a search with one worker repeatable; 0 is a seed", low=0, high=LARGEST_SEED)
    runs: str = _option("runs", "the folder that studies live in")
    tracking_uri: str | None = _option(None, "an MLflow server; by default the store in the runs folder")
    experiment: str | None = _option(None, "the MLflow experiment's name; by default the study's")
    register: str | None = _option(None, "the name to register the best model under; by default only in a local store")
    keep_models: int = _option(3, "how many of the best trials keep their weights in MLflow", low=1)
    tensorboard: bool = _option(False, "write a log for TensorBoard, whose HParams page compares the trials")
    trial_timeout: float | None = _option(None, "the most time that one trial may run, such as 30m", time=True)
    heartbeat_timeout: float = _option(
        300.0, "replace a worker that gives no sign of life for so long", low=5, time=True
    )
    retries: int = _option(1, "how often to take up a trial whose process died", low=0)
    max_consecutive_failures: int = _option(5, "give up when so many failed before any succeeded", low=1)
    checkpoint_every: float = _option(30.0, "seconds between checkpoints within a trial's training", low=0)
    keras_backend: str | None = _option(None, "tensorflow, jax or torch", choices=KERAS_BACKENDS)
    run_eagerly: bool = _option(False, "train step by step, uncompiled, where prints and breakpoints are reached")
    fuse: bool = _option(True, "train whole epochs as one compiled loop where that gives the same results")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def backend_options(self) -> dict[str, Any]:
        """Those that make the back end what it is: a study resumed with others begins a new era."""
        options = {name: getattr(self, name) for name in BACKEND_OPTIONS[self.backend]}
        return {**options, "sampler": self.sampler or DEFAULT_SAMPLERS[self.backend]}

    @property
    def plan(self) -> brackets.Plan:
        return brackets.plan(self.max_epochs, self.factor)

    @property
    def total_epochs(self) -> int | None:
        """The epochs after which the search ends. Optuna has no end of its own: it gets what Hyperband would take."""
        if self.max_total_epochs is not None or self.backend != "optuna":
            return self.max_total_epochs
        if self.max_trials is not None or self.timeout is not None or self.target is not None:
            return None
        return self.plan.total_epochs * self.iterations * self.executions_per_trial


_MODEL_NAME = re.compile(r"(?!\s|\.\.|\.$)[^/:@'\"`\x00-\x1f]{1,200}(?<!\s)")
"""What MLflow can register, and find again by `models:/NAME@champion`."""

FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Options)}
SESSION = ("study", "runs")
"""Options that say which study is meant, and are no part of its journal's options."""
EARLY = (*SESSION, "keras_backend")
"""Options that must be known before the space file is run."""


def resolve(
    given: Mapping[str, Any],
    file: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    where: str = "search_options",
) -> Options:
    """The options to run with: `given` over `before` (a resumed study's) over `file` (the space file's) over defaults.

    Args:
        given: what the command line or the caller says; None means not said.
        file: None while the space file has not been run: it may yet name another back end.
        where: how messages name the space file.

    Raises:
        OptionError: an unknown name, a value that cannot be used, or options that exclude each other.
    """
    said = {name: value for name, value in given.items() if value is not None}
    known = {name: value for name, value in (before or {}).items() if name in FIELDS} | said
    merged = {**(file or {}), **known}
    checked = {}
    for name, value in merged.items():
        with located(None if name in known else where):
            if name not in FIELDS:
                raise OptionError(f"unknown option {name!r}.{nearest(str(name), FIELDS) or ' See search run --help'}")
            if value is not None:
                checked[name] = check(name, value)
    options = Options(**checked)
    for name in said:
        only = FIELDS[name].metadata.get("backend")
        if only and only != options.backend and (file is not None or "backend" in known):
            raise OptionError(f"{flag(name)} goes with --backend {only}, and this search uses {options.backend}")
    return options


@contextmanager
def located(where: str | None) -> Iterator[None]:
    """Begin the message of an OptionError raised within by `where` the option was given."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{where}: {error}" if where else str(error)) from None


def flag(name: str) -> str:
    """The option's name on the command line; of a flag, what says the contrary of its default."""
    return ("--no-" if FIELDS[name].default is True else "--") + name.replace("_", "-")


def check(name: str, value: Any) -> Any:
    """`value` as the option `name` has it. OptionError where it cannot be used."""
    field_ = FIELDS[name]
    kind = str(field_.type)
    if field_.metadata.get("time"):
        value = seconds(value, flag(name))
        if value < (low := field_.metadata.get("low", 0)):
            raise OptionError(f"{flag(name)} is {value:g} seconds: it must be at least {low}")
    elif name == "try_first":
        value = configurations(value)
    elif kind.startswith(("int", "float")):
        value = _number(name, value, whole=kind.startswith("int"))
    elif kind.startswith("bool"):
        if not isinstance(value, bool):
            raise OptionError(f"{name} is {value!r}: give True or False")
    else:
        value = str(value)
    if name == "register" and not _MODEL_NAME.fullmatch(value):
        raise OptionError(f"--register {value!r} cannot be a model's name: give one without '/', ':', '@' and quotes")
    choices = field_.metadata.get("choices")
    if choices and value not in choices:
        raise OptionError(f"{flag(name)} {value!r} is not known: use {', '.join(choices)}.{nearest(value, choices)}")
    return value


def _number(name: str, value: Any, *, whole: bool) -> int | float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number != int(number)):
        raise OptionError(f"{flag(name)} is {value!r}: give a {'whole ' if whole else ''}number")
    metadata = FIELDS[name].metadata
    low, high = metadata.get("low", -math.inf), metadata.get("high", math.inf)
    if number < low or (metadata.get("above") and number == low) or number > high:
        limits = f"more than {low}" if metadata.get("above") else f"at least {low}"
        if high != math.inf:
            limits += f" and at most {high}"
        raise OptionError(f"{flag(name)} is {value}: it must be {limits}")
    return int(number) if whole else number


def configurations(value: Any) -> tuple[dict[str, Value], ...]:
    """Configurations to try: dicts of values by name, JSON text of one or of a list of them, or paths of such files.

    OptionError for anything else.
    """
    found: list[dict[str, Value]] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        parsed = _read_json(item) if isinstance(item, (str, Path)) else item
        for given in parsed if isinstance(parsed, list) else [parsed]:
            if not isinstance(given, Mapping) or not given:
                raise OptionError(f'--try-first is {given!r}: give values by name, such as {{"lr": 0.01}}')
            found.append({name: _plain(name, entry) for name, entry in given.items()})
    return tuple(found)


def _read_json(text: str | Path) -> Any:
    where = "--try-first"
    try:
        if not str(text).lstrip().startswith(("{", "[")):
            where = f"--try-first {text}"
            text = Path(text).read_text()
        return json.loads(str(text))
    except OSError as error:
        raise OptionError(f"{where} cannot be read ({error.strerror}): give JSON, or a .json file") from None
    except ValueError as error:
        raise OptionError(f'{where} is not JSON ({error}): write it as {{"lr": 0.01}}') from None


def _plain(name: Any, value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(name, str) or not isinstance(value, (int, float, str, bool, type(None))) or not finite:
        raise OptionError(f"--try-first gives {name!r} the value {value!r}: give names, and values that hp gives")
    return value


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Any, flag: str) -> float:
    """A time as seconds: a number, or text such as `90s`, `30m`, `2h`, `1h30m`. OptionError for anything else."""
    text = str(value).strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", text)
    if isinstance(value, bool) or not parts or "".join(number + unit for number, unit in parts) != text:
        raise OptionError(f"{flag} is {value!r}: give seconds, or a time such as 90s, 30m, 2h or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise OptionError(f"{flag} is {value!r}: it must be more than 0")
    return total


def choose_objective(
    options: Options,
    metrics: tuple[str, ...],
    compiled: tuple[str, ...],
    directions: Mapping[str, str],
    *,
    validated: bool,
    extra: bool = False,
    own_fit: bool = False,
) -> Objective:
    """The objective of a search, what was asked for, else `val_<metric>` where the model
    compiles exactly one metric whose direction is known, else `val_loss`. Where these are not in the logs of a `fit` of
    the user's, `default_objective`, as KerasTuner calls what such a `fit` returns, and less of it is better.

    Args:
        metrics: the names in an epoch's logs, as the probe saw them; none where only a `fit` of the user's knows.
        compiled: the compiled metrics, without `loss`.
        directions: `min` or `max` for those metrics (without `val_`) where it is known.
        validated: whether `load_data` returns validation data.
        extra: whether callbacks or a `fit` of the user's may add to the logs; the first epoch will show.
        own_fit: whether there is such a `fit`.
    """
    name = options.objective
    if name is None:
        single = len(compiled) == 1 and compiled[0] in directions
        name = f"val_{compiled[0]}" if single else "val_loss"
        if own_fit and name not in metrics:
            return Objective("default_objective", "max" if options.direction == "max" else "min")
    if name.startswith("val_") and not validated and not extra:
        raise OptionError(
            f"objective {name!r} needs validation data and load_data returned none: return (train, validation), or "
            f"give a training metric with --objective: {', '.join(metrics)}"
        )
    if name not in metrics and not (extra and options.objective is not None):
        raise OptionError(
            f"objective {name!r} is not among the metrics: {', '.join(metrics)}.{nearest(name, metrics)} "
            "Give one with --objective"
        )
    direction = options.direction or directions.get(name.removeprefix("val_"))
    if direction is None:
        raise OptionError(f"whether more or less of {name!r} is better is not known: say --direction max or min")
    return Objective(name, "max" if direction == "max" else "min")
