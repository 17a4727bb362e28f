"""The options of a search: their names, defaults, meanings and limits, in one place.

The command line and `search.run` win over a resumed study's journal, the journal over the space file's
`search_options`, and the file over the defaults.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.backends import grid, registry
from search.backends.brackets import HyperbandPlan, plan_brackets
from search.errors import OptionError, nearest
from search.messages import DRIVER
from search.plugins.loading import BACKENDS, EXECUTORS, FOLLOWERS, STOP_RULES, Registry, spec_of
from search.plugins.spec import split_spec
from search.space.configurations import parse_configurations
from search.space.domain import Value
from search.study.requirement import parse_requirement
from search.study.study import Study
from search.study.tags import check_tags
from search.study.versions import KERAS_BACKENDS
from search.wording import format_time, parse_bytes, parse_seconds

LARGEST_SEED = 2**31 - 1

STUDY = "What to search"
EXISTING = "If the study exists"
BUDGET = "When to stop"
BACKEND = "What is tried next"
MACHINES = "Where trials run"
TRAINING = "How a trial trains"
RESULTS = "Results and tracking"
FAILURES = "Failures, checkpoints and storage"
GROUPS = (STUDY, EXISTING, BUDGET, BACKEND, MACHINES, TRAINING, RESULTS, FAILURES)
"""The groups of the options, in the order of the help."""


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


def _parts(registry: Registry) -> dict[str, Any]:
    """Return the metadata of an option whose values name parts of `registry`."""
    return {"registry": registry, "choices": tuple(registry.own)}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one search.

    The metadata of a field holds its help, its `group` in the help of a command, and optionally:

        low, high, choices: the values that it takes; `above` excludes `low` itself.
        time: its value is a time, in seconds.
        size: its value is a size, in bytes.
        many: it may be given several times.
        registry: its values name parts of this registry; `choices` are our own.
        hidden: the command line lacks it; KerasTuner's tuners set it.
    """

    study: str | None = _option(None, "the study's name; by default the space file's", group=STUDY)
    backend: str = _option(
        "hyperband", "the back end: it decides what to try, and how long to train it", **_parts(BACKENDS), group=BACKEND
    )
    objective: str | None = _option(
        None, "the metric to compare, as an epoch's logs name it, such as val_accuracy", group=STUDY
    )
    direction: str | None = _option(
        None, "minimize or maximize the objective; by default as its metric says", choices=("min", "max"), group=STUDY
    )
    max_epochs: int = _option(27, "the most epochs for one trial", low=1, group=BUDGET)
    max_trials: int | None = _option(None, "stop after this many configurations", low=1, group=BUDGET)
    max_weights: int | None = _option(
        None, "refuse models with more weights: such a trial is infeasible", low=1, group=STUDY
    )
    max_total_epochs: int | None = _option(None, "stop after this many epochs over all trials", low=1, group=BUDGET)
    timeout: float | None = _option(
        None, "stop after this time over all resumes, such as 90s, 30m or 2h", time=True, group=BUDGET
    )
    stop_before: float | None = _option(
        None,
        "stop this time before the end of the Slurm job, such as 5m; the same command goes on later",
        time=True,
        group=BUDGET,
    )
    factor: int = _option(
        3, "successive halving, as in Hyperband, promotes one trial in this many", low=2, group=BACKEND
    )
    iterations: int = _option(1, "how often to run Hyperband's whole plan", low=1, group=BACKEND)
    sampler: str | None = _option(
        None,
        "the Optuna sampler of hyperband, asha or optuna, as name or name:key=value,…; by default random; tpe with "
        "optuna",
        group=BACKEND,
    )
    pruner: str = _option("hyperband", "the Optuna pruner, as name or name:key=value,…", group=BACKEND)
    try_first: tuple[Mapping[str, Value], ...] = _option(
        (),
        'configurations to try first: JSON such as {"lr": 0.01}, or a .json file; repeatable',
        many=True,
        group=STUDY,
    )
    warm_start: str | None = _option(
        None, "learn from the trials of this study, given by its name or its folder", group=STUDY
    )
    executor: str = _option(
        "local",
        "where trials run: local in worker processes, ray on the nodes of a Ray cluster, inline in this process",
        **_parts(EXECUTORS),
        group=MACHINES,
    )
    ray_address: str | None = _option(
        None,
        "the Ray cluster as HOST:PORT, or local for one of this search's own; by default RAY_ADDRESS, or one of yours "
        "that runs on this machine",
        group=MACHINES,
    )
    workers: int | None = _option(
        None, "how many trials run at once; by default as many as the machine allows", low=1, group=MACHINES
    )
    gpus: str = _option(
        "auto",
        "the GPUs to use: auto for those that nobody else uses, none, or numbers or UUIDs such as 0,1",
        group=MACHINES,
    )
    gpus_per_trial: float = _option(
        1.0, "the GPUs for each trial; 0.5 lets two trials share one", low=0, above=True, group=MACHINES
    )
    logical_devices: int = _option(
        1,
        "split the processor into this many devices for each trial: --gpus-per-trial without GPUs",
        low=1,
        high=64,
        group=MACHINES,
    )
    executions_per_trial: int = _option(
        1, "how often to train each trial; its objective is the mean", low=1, group=TRAINING
    )
    target: float | None = _option(None, "stop when the objective reaches this value", group=BUDGET)
    stop_rule: tuple[str, ...] = _option(
        (),
        "a rule that ends the search, as name or name:key=value,…; repeatable; none drops those of a resumed study",
        many=True,
        **_parts(STOP_RULES),
        group=BUDGET,
    )
    follow: tuple[str, ...] = _option(
        (),
        "a follower, which is told all that happens, as name or name:key=value,…; repeatable; none drops those of a "
        "resumed study",
        many=True,
        **_parts(FOLLOWERS),
        group=RESULTS,
    )
    seed: int | None = _option(
        None, "a seed, 0 included, makes a search with one worker repeatable", low=0, high=LARGEST_SEED, group=STUDY
    )
    require: tuple[str, ...] = _option(
        (),
        "the best trial must fulfil this, such as 'val_accuracy>=.9', else the exit code is 3; a metric of its best "
        "epoch, objective or test_…; repeatable; holds for this command only",
        many=True,
        group=RESULTS,
    )
    runs: str = _option("runs", "the folder that holds the studies", group=RESULTS)
    tracking_uri: str | None = _option(
        None, "the MLflow server; by default the store in the runs folder", group=RESULTS
    )
    experiment: str | None = _option(None, "the MLflow experiment's name; by default the study's", group=RESULTS)
    register: str | None = _option(
        None, "the name to register the best model under; by default only in a local store", group=RESULTS
    )
    tag: tuple[str, ...] = _option(
        (),
        "a tag KEY=VALUE of MLflow's runs of the study and its trials; repeatable; none drops a resumed study's",
        many=True,
        group=RESULTS,
    )
    parent_run: str | None = _option(
        None,
        "the id of an MLflow run of yours; the study's run becomes a child of it, in the same experiment",
        group=RESULTS,
    )
    keep_models: int = _option(
        3,
        "how many of the best trials are evaluated on the test data, and keep their weights in MLflow",
        low=1,
        group=RESULTS,
    )
    report: bool = _option(True, "write a report, one HTML file in the study's folder, at the end", group=RESULTS)
    log_report: bool = _option(
        False, "send the report to an MLflow server, too; a local store gets it in any case", group=RESULTS
    )
    tensorboard: bool = _option(
        False, "write a log for TensorBoard; its HParams page compares the trials", group=RESULTS
    )
    trial_timeout: float | None = _option(
        None, "the longest time that one trial may run, such as 30m", time=True, group=FAILURES
    )
    heartbeat_timeout: float = _option(
        300.0, "replace a worker that gives no sign of life for this long", low=5, time=True, group=FAILURES
    )
    retries: int = _option(1, "how often to continue a trial whose process died", low=0, group=FAILURES)
    max_consecutive_failures: int = _option(
        5, "give up when this many trials have failed and none has succeeded", low=1, group=FAILURES
    )
    max_retries_per_trial: int = _option(
        0, "how often to continue a trial whose code raised", low=0, hidden=True, group=FAILURES
    )
    max_consecutive_failed_trials: int | None = _option(
        None,
        "give up when this many trials have failed in a row; replaces max_consecutive_failures",
        low=1,
        hidden=True,
        group=FAILURES,
    )
    checkpoint_every: float = _option(
        30.0,
        "the time between checkpoints while a trial trains; 0 for one after each epoch",
        low=0,
        time=True,
        group=FAILURES,
    )
    disk: int | None = _option(
        None,
        "the most that the checkpoints of paused trials may take, such as 500MB or 20GB; by default a fifth of what is "
        "free when the search begins, with --storage URL no limit",
        size=True,
        group=FAILURES,
    )
    storage: str | None = _option(
        None,
        "where trials' checkpoints and files are kept: a URL of fsspec's such as s3://bucket/studies, folder for the "
        "study's folder, or driver for the same through the driver's connections; by default folder",
        group=FAILURES,
    )
    keras_backend: str | None = _option(None, "the back end of Keras", choices=KERAS_BACKENDS, group=TRAINING)
    run_eagerly: bool = _option(
        False, "train step by step without compilation, for prints and breakpoints", group=TRAINING
    )
    fuse: bool = _option(True, "train whole epochs as one compiled loop if the results are the same", group=TRAINING)
    graph_sharing: bool = _option(True, "let models that are alike share one traced graph", group=TRAINING)

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
        listed = grid.is_grid({"sampler": self.sampler}) and not self.follows_plan
        return listed and self.max_trials is not None and self.max_trials >= registry.LARGEST_GRID

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
PASSING = (*LOCATION, "ray_address", "require")
"""Options of one process that are not journaled: a study may be resumed on another cluster, or with another aim."""
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
            _check_name(name)
            if value is not None:
                checked[name] = check_option(name, value)
                if name in given or name not in known:
                    _check_parts(name, checked[name])
    options = Options(**checked)
    if file is not None or "backend" in known:
        _check_taken(given, options)
    return options


def check_written_options(written: Mapping[str, Any], known: Container[str], where: str) -> None:
    """Check options of a space file that has not been run, as `resolve_options` does when it has been.

    Args:
        written: the names, and the values that are known; None for another one.
        known: options whose values the user or a journal gives, so that the file's are not used.
        where: the name of the space file in messages.

    Raises:
        OptionError: a name is unknown, or a value cannot be used.
    """
    with error_prefix(where):
        for name, value in written.items():
            _check_name(name)
            if value is not None and name not in known:
                checked = check_option(name, value)
                # A class in a module beside the file may be imported only when the file is run.
                if ":" not in str(checked):
                    _check_parts(name, checked)


def _check_name(name: str) -> None:
    if name not in FIELDS:
        raise OptionError(f"unknown option {name!r}.{nearest(str(name), FIELDS) or ' See search run --help'}")


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
        low = field_.metadata.get("low")
        try:
            value = parse_seconds(value, zero=low == 0)
        except ValueError as error:
            raise OptionError(f"{option_flag(name)} is {value!r}: {error}") from None
        if low is not None and value < low:
            raise OptionError(f"{option_flag(name)} is {format_time(value)}: it must be at least {format_time(low)}")
    elif field_.metadata.get("size"):
        try:
            value = parse_bytes(value)
        except ValueError as error:
            raise OptionError(f"{option_flag(name)} is {value!r}: {error}") from None
    elif name == "try_first":
        value = parse_configurations(value)
    elif name == "tag":
        value = check_tags(value)
    elif name == "require":
        value = tuple(
            parse_requirement(str(text)).text for text in (value if isinstance(value, (list, tuple)) else [value])
        )
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


def last_options(study: Study) -> Options:
    """Return the options of the last run of `study`."""
    return resolve_options({}, before=study.options)
