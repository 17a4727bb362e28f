"""The options of a search: their names, defaults, meanings and limits, in one place.

The command line and `search.run` win over a resumed study's journal, the journal over the space file's
`search_options`, and the file over the defaults.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from search.backends import registry
from search.backends.brackets import HyperbandPlan, plan_brackets
from search.errors import OptionError, SearchError, nearest
from search.messages import DRIVER
from search.plugins.loading import BACKENDS, EXECUTORS, FOLLOWERS, STOP_RULES, Registry, spec_of
from search.plugins.spec import split_spec
from search.space.configurations import parse_configurations
from search.space.domain import Value
from search.study.study import Study
from search.study.versions import KERAS_BACKENDS
from search.wording import parse_bytes

LARGEST_SEED = 2**31 - 1


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


def _parts(registry: Registry) -> dict[str, Any]:
    """Return the metadata of an option whose values name parts of `registry`."""
    return {"registry": registry, "choices": tuple(registry.own)}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one search.

    The metadata of a field holds its help, and optionally:

        low, high, choices: the values that it takes; `above` excludes `low` itself.
        time: its value is a time, in seconds.
        size: its value is a size, in bytes.
        many: it may be given several times.
        registry: its values name parts of this registry; `choices` are our own.
        hidden: the command line lacks it; KerasTuner's tuners set it.
    """

    study: str | None = _option(None, "the study's name; by default the space file's")
    backend: str = _option(
        "hyperband", "the back end: it decides what to try, and how long to train it", **_parts(BACKENDS)
    )
    objective: str | None = _option(None, "the metric to compare, as an epoch's logs name it, such as val_accuracy")
    direction: str | None = _option(
        None, "minimize or maximize the objective; by default as its metric says", choices=("min", "max")
    )
    max_epochs: int = _option(27, "the most epochs for one trial", low=1)
    max_trials: int | None = _option(None, "stop after this many configurations", low=1)
    max_weights: int | None = _option(None, "refuse models with more weights: such a trial is infeasible", low=1)
    max_total_epochs: int | None = _option(None, "stop after this many epochs over all trials", low=1)
    timeout: float | None = _option(None, "stop after this time over all resumes, such as 90s, 30m or 2h", time=True)
    stop_before: float | None = _option(
        None, "stop this time before the end of the Slurm job, such as 5m; the same command goes on later", time=True
    )
    factor: int = _option(3, "successive halving, as in Hyperband, promotes one trial in this many", low=2)
    iterations: int = _option(1, "how often to run Hyperband's whole plan", low=1)
    sampler: str | None = _option(
        None,
        "the Optuna sampler of hyperband, asha or optuna, as name or name:key=value,…; by default random; tpe with "
        "optuna",
    )
    pruner: str = _option("hyperband", "the Optuna pruner, as name or name:key=value,…")
    try_first: tuple[Mapping[str, Value], ...] = _option(
        (), 'configurations to try first: JSON such as {"lr": 0.01}, or a .json file; repeatable', many=True
    )
    warm_start: str | None = _option(None, "learn from the trials of this study, given by its name or its folder")
    executor: str = _option(
        "local",
        "where trials run: local in worker processes, ray on the nodes of a Ray cluster, inline in this process",
        **_parts(EXECUTORS),
    )
    ray_address: str | None = _option(
        None,
        "the Ray cluster as HOST:PORT, or local for one of this search's own; by default RAY_ADDRESS, or one of yours "
        "that runs on this machine",
    )
    workers: int | None = _option(None, "how many trials run at once; by default as many as the machine allows", low=1)
    gpus: str = _option(
        "auto", "the GPUs to use: auto for those that nobody else uses, none, or numbers or UUIDs such as 0,1"
    )
    gpus_per_trial: float = _option(1.0, "the GPUs for each trial; 0.5 lets two trials share one", low=0, above=True)
    logical_devices: int = _option(
        1, "split the processor into this many devices for each trial: --gpus-per-trial without GPUs", low=1, high=64
    )
    executions_per_trial: int = _option(1, "how often to train each trial; its objective is the mean", low=1)
    target: float | None = _option(None, "stop when the objective reaches this value")
    stop_rule: tuple[str, ...] = _option(
        (),
        "a rule that ends the search, as name or name:key=value,…; repeatable; none drops those of a resumed study",
        many=True,
        **_parts(STOP_RULES),
    )
    follow: tuple[str, ...] = _option(
        (),
        "a follower, which is told all that happens, as name or name:key=value,…; repeatable; none drops those of a "
        "resumed study",
        many=True,
        **_parts(FOLLOWERS),
    )
    seed: int | None = _option(
        None, "a seed, 0 included, makes a search with one worker repeatable", low=0, high=LARGEST_SEED
    )
    runs: str = _option("runs", "the folder that holds the studies")
    tracking_uri: str | None = _option(None, "the MLflow server; by default the store in the runs folder")
    experiment: str | None = _option(None, "the MLflow experiment's name; by default the study's")
    register: str | None = _option(None, "the name to register the best model under; by default only in a local store")
    keep_models: int = _option(3, "how many of the best trials keep their weights in MLflow", low=1)
    report: bool = _option(True, "write a report, one HTML file in the study's folder, at the end")
    log_report: bool = _option(False, "send the report to an MLflow server, too; a local store gets it in any case")
    tensorboard: bool = _option(False, "write a log for TensorBoard; its HParams page compares the trials")
    trial_timeout: float | None = _option(None, "the longest time that one trial may run, such as 30m", time=True)
    heartbeat_timeout: float = _option(
        300.0, "replace a worker that gives no sign of life for this long", low=5, time=True
    )
    retries: int = _option(1, "how often to continue a trial whose process died", low=0)
    max_consecutive_failures: int = _option(
        5, "give up when this many trials have failed and none has succeeded", low=1
    )
    max_retries_per_trial: int = _option(0, "how often to continue a trial whose code raised", low=0, hidden=True)
    max_consecutive_failed_trials: int | None = _option(
        None,
        "give up when this many trials have failed in a row; replaces max_consecutive_failures",
        low=1,
        hidden=True,
    )
    checkpoint_every: float = _option(30.0, "the seconds between checkpoints while a trial trains", low=0)
    disk: int | None = _option(
        None,
        "the most that the checkpoints of paused trials may take, such as 500MB or 20GB; by default a fifth of what is "
        "free when the search begins",
        size=True,
    )
    storage: str | None = _option(
        None,
        "where trials' checkpoints and files are kept: a URL of fsspec's such as s3://bucket/studies, folder for the "
        "study's folder, or driver for the same through the driver's connections; by default folder",
    )
    keras_backend: str | None = _option(None, "the back end of Keras", choices=KERAS_BACKENDS)
    run_eagerly: bool = _option(False, "train step by step without compilation, for prints and breakpoints")
    fuse: bool = _option(True, "train whole epochs as one compiled loop if the results are the same")
    graph_sharing: bool = _option(True, "let models that are alike share one traced graph")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def backend_name(self) -> str:
        """The back end's name, without its arguments."""
        return split_spec(self.backend)[0]

    def backend_options(self) -> dict[str, Any]:
        """Return the options that define the back end: a study resumed with other ones begins a new back end phase.

        Raises:
            OptionError: the back end cannot be loaded.
        """
        facts = registry.facts_of(self.backend)
        options = {name: getattr(self, name) for name in facts.options}
        if "sampler" in options:
            options["sampler"] = self.sampler or facts.sampler
        repeatable = facts.repeatable if self.seed is not None else {}
        return {**options, **repeatable, **BACKENDS.load(self.backend).arguments}

    @property
    def followers(self) -> tuple[str, ...]:
        """The followers to start, `--tensorboard` among them."""
        names = [split_spec(spec)[0] for spec in self.follow]
        return (*self.follow, *(["tensorboard"] if self.tensorboard and "tensorboard" not in names else []))

    @property
    def plan(self) -> HyperbandPlan:
        return plan_brackets(self.max_epochs, self.factor)

    @property
    def follows_plan(self) -> bool:
        """True if trials and epochs are those of Hyperband's plan: never with a back end of another package."""
        return registry.OWN.get(self.backend_name, registry.UNKNOWN).follows_plan

    @property
    def lists_all(self) -> bool:
        """True if a grid search has no limit of trials below the largest grid."""
        is_grid = str(self.sampler).partition(":")[0] == "grid" and not self.follows_plan
        return is_grid and self.max_trials is not None and self.max_trials >= registry.LARGEST_GRID

    @property
    def total_epochs(self) -> int | None:
        """The epochs after which the search ends. A back end without an end gets those of Hyperband's plan."""
        if self.max_total_epochs is not None:
            return self.max_total_epochs
        if self.max_trials is not None or self.timeout is not None or self.target is not None:
            return None
        if registry.known_facts_of(self.backend).has_end:
            return None
        return self.plan.total_epochs * self.iterations * self.executions_per_trial


_MODEL_NAME = re.compile(r"(?!\s|\.\.|\.$)[^/:@'\"`\x00-\x1f]{1,200}(?<!\s)")
"""Names that MLflow can register, and find again by `models:/NAME@champion`."""

FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Options)}
FOLDER = "folder"
STORAGES = (FOLDER, DRIVER)
"""The values of `storage` that are no URL."""
LOCATION = ("study", "runs")
"""Options that name the study, and are not journaled with it."""
PASSING = (*LOCATION, "ray_address")
"""Options of one process that are not journaled: a study may be resumed on another cluster."""
OWN_FIT_MAX_EPOCHS = 1000
"""The `max_epochs` of a search whose own `fit` decides on its epochs. Beyond them, a trial is ended all the same."""
EARLY = (*LOCATION, "keras_backend", "executor", "ray_address", "storage")
"""Options that must be known before the space file is run."""


def resolve_options(
    given: Mapping[str, Any],
    file: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    where: str = "search_options",
) -> Options:
    """Return the options to run with: `given` wins over `before`, `before` over `file`, and `file` over the defaults.

    Args:
        given: options of the command line or the caller; None means not given.
        file: options of the space file; None before the file is run, as it may name another back end.
        before: journaled options of the resumed study.
        where: the name of the space file in messages.

    Raises:
        OptionError: a name is unknown, a value cannot be used, or options exclude each other.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = {name: value for name, value in (before or {}).items() if name in FIELDS} | given
    merged = {**(file or {}), **known}
    checked = {}
    for name, value in merged.items():
        with error_prefix(None if name in known else where):
            if name not in FIELDS:
                raise OptionError(f"unknown option {name!r}.{nearest(str(name), FIELDS) or ' See search run --help'}")
            if value is not None:
                checked[name] = check_option(name, value)
                if name in given or name not in known:
                    _check_parts(name, checked[name])
    options = Options(**checked)
    if file is not None or "backend" in known:
        _check_taken(given, options)
    return options


def _check_parts(name: str, value: Any) -> None:
    """Raise OptionError if the option `name` names a part that there is not. A journaled one may be missing."""
    parts: Registry | None = FIELDS[name].metadata.get("registry")
    if parts is not None:
        for spec in [value] if isinstance(value, str) else value:
            parts.check(spec)


def _check_taken(given: Iterable[str], options: Options) -> None:
    """Raise OptionError if one of the `given` options is for other back ends than that of `options`."""
    for name in given:
        takers = registry.takers_of(name)
        if name == "max_epochs" or not takers or registry.known_facts_of(options.backend).takes(name):
            continue
        used = options.backend_name
        raise OptionError(f"{option_flag(name)} goes with --backend {' or '.join(takers)}, and this search uses {used}")


def check_ray_address(given: Mapping[str, Any]) -> None:
    """Raise OptionError if `given` has the address of a cluster and another executor than `ray`."""
    executor = given.get("executor") or FIELDS["executor"].default
    if given.get("ray_address") is not None and executor != "ray":
        raise OptionError(f"--ray-address goes with --executor ray, and this search uses {executor}")


@contextmanager
def error_prefix(where: str | None) -> Iterator[None]:
    """Put `where`, the place of the option, before the message of an OptionError raised in the block."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{where}: {error}" if where else str(error)) from None


def option_flag(name: str) -> str:
    """Return the option's flag on the command line: `--max-epochs`, or `--no-fuse` for a switch that is on."""
    return ("--no-" if FIELDS[name].default is True else "--") + name.replace("_", "-")


def check_option(name: str, value: Any) -> Any:
    """Return a value of the option `name`, converted to the option's type.

    Raises:
        OptionError: the value cannot be used.
    """
    field_ = FIELDS[name]
    kind = str(field_.type)
    if field_.metadata.get("time"):
        value = parse_seconds(value, option_flag(name))
        if value < (low := field_.metadata.get("low", 0)):
            raise OptionError(f"{option_flag(name)} is {value:g} seconds: it must be at least {low}")
    elif field_.metadata.get("size"):
        try:
            value = parse_bytes(value)
        except ValueError as error:
            raise OptionError(f"{option_flag(name)} is {value!r}: {error}") from None
    elif name == "try_first":
        value = parse_configurations(value)
    elif field_.metadata.get("registry"):
        value = _check_specs(value) if field_.metadata.get("many") else spec_of(value)
    elif kind.startswith(("int", "float")):
        value = _check_number(name, value, whole=kind.startswith("int"))
    elif kind.startswith("bool"):
        if not isinstance(value, bool):
            raise OptionError(f"{name} is {value!r}: give True or False")
    else:
        value = str(value)
    if name == "storage" and value not in STORAGES and "://" not in value:
        value = str(Path(value).absolute())
    if name == "register" and not _MODEL_NAME.fullmatch(value):
        raise OptionError(f"--register {value!r} cannot be a model's name: give one without '/', ':', '@' and quotes")
    choices = None if "registry" in field_.metadata else field_.metadata.get("choices")
    if choices and value not in choices:
        raise OptionError(
            f"{option_flag(name)} {value!r} is not known: use {', '.join(choices)}.{nearest(value, choices)}"
        )
    return value


def _check_specs(value: Any) -> tuple[str, ...]:
    """Return the parts that an option names. `none` stands for no part, and drops those before it."""
    specs: list[str] = []
    for part in value if isinstance(value, (list, tuple)) else [value]:
        spec = spec_of(part)
        specs = [] if spec == "none" else [*specs, spec]
    return tuple(specs)


def _check_number(name: str, value: Any, *, whole: bool) -> int | float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number != int(number)):
        raise OptionError(f"{option_flag(name)} is {value!r}: give a {'whole ' if whole else ''}number")
    metadata = FIELDS[name].metadata
    low, high = metadata.get("low", -math.inf), metadata.get("high", math.inf)
    if number < low or (metadata.get("above") and number == low) or number > high:
        limits = f"more than {low}" if metadata.get("above") else f"at least {low}"
        if high != math.inf:
            limits += f" and at most {high}"
        raise OptionError(f"{option_flag(name)} is {value}: it must be {limits}")
    return int(number) if whole else number


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(value: Any, flag: str) -> float:
    """Return a time in seconds.

    Args:
        value: a number of seconds, or text such as `90s`, `30m`, `2h`, `1h30m`.
        flag: the name of the option in messages.

    Raises:
        OptionError: the time cannot be read, or is not positive.
    """
    text = str(value).strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", text)
    if isinstance(value, bool) or not parts or "".join(number + unit for number, unit in parts) != text:
        raise OptionError(f"{flag} is {value!r}: give seconds, or a time such as 90s, 30m, 2h or 1h30m")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise OptionError(f"{flag} is {value!r}: it must be more than 0")
    return total


# Messages for Python --------------------------------------------------------------------------------------------------


_CALL_SWITCHES = ("resume", "overwrite", "accept_changes", "take_over")
"""Switches of `search.run` that are no options of a search."""

_SUBJECTS = ("space", "data[0]", "data[1]")
"""Arguments of `search.run` with which a message may begin."""

_FLAG = re.compile(r"(?P<with>\bwith )?(?<![\w-])--(?P<flag>[a-z]+(?:-[a-z]+)*)(?P<values> [a-z]+(?: or [a-z]+)?\b)?")

_argument_names: ContextVar[Mapping[str, str]] = ContextVar("_argument_names", default=MappingProxyType({}))


@contextmanager
def python_arguments(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let the errors of the block name arguments of Python's in place of flags of the command line.

    Args:
        names: the argument for each flag, without its dashes, and for each of `_SUBJECTS`, if it is not called as in
            `search.run`; by default those of the outer block.
    """
    token = _argument_names.set(_argument_names.get() if names is None else names)
    try:
        yield
    except SearchError as error:
        if (text := name_arguments(str(error))) == str(error):
            raise
        raise type(error)(text) from error
    finally:
        _argument_names.reset(token)


def name_arguments(text: str) -> str:
    """Return a message with arguments of Python's in place of flags of the command line."""
    names = _argument_names.get()

    def argument(found: re.Match[str]) -> str:
        before, flag, values = found["with"] or "", found["flag"], found["values"] or ""
        if flag in names:
            return before + names[flag] + values
        name = flag.replace("-", "_")
        if name in _CALL_SWITCHES:
            return f"{before}{name}=True{values}"
        field_ = FIELDS.get(name.removeprefix("no_"))
        if field_ is None:
            return found[0]
        if isinstance(field_.default, bool):
            return f"{before}{field_.name}={not name.startswith('no_')}{values}"
        words = values.split(" or ")
        if {word.strip() for word in words} <= set(field_.metadata.get("choices", ())):
            return f"{before}{name}={' or '.join(repr(word.strip()) for word in words)}"
        return f"{before}{name}{'=…' if before and not values else ''}{values}"

    subject, space, rest = text.partition(" ")
    if subject in _SUBJECTS and subject in names:
        text = names[subject] + space + rest
    return _FLAG.sub(argument, text.replace("search run --help", "help(search.run)"))


def last_options(study: Study) -> Options:
    """Return the options of the last run of `study`."""
    return resolve_options({}, before=study.start.options if study.start is not None else {})
