"""Checks before a study is begun or resumed, beyond the checks of single options."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from search import options
from search.backends.base import BackEnd
from search.backends.registry import facts_of, make_backend
from search.devices.gpus import Gpu
from search.devices.plan import describe_unseen_gpus
from search.driver.objective import objective_for_metrics
from search.errors import OptionError, SearchError, StudyError, nearest
from search.messages import Probed, ProbeFailed
from search.options import FIELDS, Options
from search.space.domain import Domain, Parameter, Value
from search.study.records import FORMAT, EpochDone, Header, ParameterSet, SegmentRequested
from search.study.requirement import check_metrics, parse_requirement
from search.study.trial import Objective, Suggestion
from search.study.versions import changed_versions
from search.wording import pluralize


def objective_of(opts: Options, probed: Probed) -> Objective:
    """Return the objective of a new study; see `objective_for_metrics`."""
    return objective_for_metrics(
        opts,
        probed.metrics,
        probed.compiled_metrics,
        probed.directions,
        validated=probed.validated,
        extra=probed.extra_logs,
        own_fit=probed.own_fit,
    )


def check_not_imported(header: Header) -> None:
    """Raise StudyError for a study of another tool's results, which cannot go on."""
    if header.is_imported:
        raise StudyError(
            f"study {header.study!r} was imported, and no search of its own can go on: begin another one that learns "
            f"from it with search run SPACE.py --sampler tpe --warm-start {header.study}"
        )


def check_seed(header: Header, seed: int | None) -> None:
    """Raise StudyError if the user gives a resumed study another `seed` than its own."""
    if seed not in (None, header.seed):
        raise StudyError(
            f"study {header.study!r} has the seed {header.seed}: a resumed study keeps it; begin another with --study"
        )


def kept_objective(header: Header, opts: Options) -> Objective:
    """Return the objective of a resumed study. StudyError if the user asks for another one."""
    objective = header.objective
    wanted = (opts.objective or objective.name, opts.direction or objective.direction)
    if wanted != (objective.name, objective.direction):
        raise StudyError(
            f"study {header.study!r} compares {objective.name} ({objective.direction}): a resumed study keeps "
            "its objective; begin another with --study"
        )
    return objective


def check_single_value(objective: Objective, opts: Options, probed: Probed) -> None:
    """Raise OptionError if the objective is a metric with several values, such as one for each class.

    A `fit` of the user's own may return one number under that name, if the user named the objective.
    """
    count = probed.vectors.get(objective.name)
    if count is None or (probed.own_fit and opts.objective is not None):
        return
    raise OptionError(
        f"objective {objective.name!r} has {count} values, and trials are compared by one: compile the metric so that "
        "it gives one, such as F1Score(average='macro'), or give another objective with --objective"
    )


def check_required(opts: Options, probed: Probed, objective: Objective) -> None:
    """Raise OptionError if `--require` names a metric that no trial will have, as far as that is known."""
    if probed.extra_logs or probed.own_fit:
        return  # the first epoch will show
    tested = [name for name in probed.metrics if not name.startswith("val_")] if probed.tested else []
    check_metrics([parse_requirement(text) for text in opts.require], probed.metrics, tested, objective.name)


def check_keras(opts: Options, probed: Probed, devices: int = 1) -> None:
    """Raise OptionError if Keras runs on another back end than the user asked for.

    Also if that back end cannot spread a trial over so many `devices`.
    """
    runs_on = probed.versions["keras_backend"]
    if opts.keras_backend not in (None, runs_on):
        raise OptionError(
            f"--keras-backend {opts.keras_backend}: Keras has been imported with {runs_on}: give the option on the "
            "command line, or set KERAS_BACKEND"
        )
    if devices > 1 and runs_on not in ("tensorflow", "jax"):
        flag = "--logical-devices" if opts.logical_devices > 1 else "--gpus-per-trial"
        raise OptionError(
            f"{flag} {devices}: Keras on {runs_on} trains on one device; use --keras-backend tensorflow or jax"
        )


def check_seen_gpus(probed: Probed, gpus: Sequence[Gpu]) -> None:
    """Raise OptionError if a search on `gpus` would train on the processor, as Keras's framework sees no GPU."""
    seen = len(gpus) if probed.gpus is None else probed.gpus
    line = describe_unseen_gpus(probed.versions["keras_backend"], gpus, seen)
    if line is not None:
        raise OptionError(line)


def check_tensorboard(opts: Options) -> None:
    """Raise OptionError if a log for TensorBoard could not be written."""
    if "tensorboard" not in opts.followers:
        return
    try:
        from search.tracking.tensorboard import TensorBoardLog  # noqa: F401
    except Exception as error:  # protobuf raises many kinds if versions do not fit
        raise OptionError(
            f"--tensorboard needs the package tensorboard ({type(error).__name__}: {error}): pip install tensorboard"
        ) from None


def check_backend(opts: Options, parameters: tuple[Parameter, ...] | None = None) -> None:
    """Raise OptionError if the back end does not accept its options.

    Args:
        parameters: those of the probe; None before there is one.
    """
    given = opts.backend_options()
    _check_budget(opts)
    try:
        backend = make_backend(opts.backend_name, given, Objective("loss", "min"), 0, parameters or ())
        if getattr(backend, "rehearsed", True):  # an oracle in the user's script would keep the trial
            _rehearse(backend, parameters or (Parameter("any", Domain("int", 0, 1)),))
    except SearchError:
        raise
    except Exception as error:
        texts = [f"{options.option_flag(name) if name in FIELDS else name} {value}" for name, value in given.items()]
        raise OptionError(
            f"--backend {opts.backend_name} cannot be used with {', '.join(texts) or 'this space'} "
            f"({type(error).__name__}: {error}): check the values"
        ) from error


def _check_budget(opts: Options) -> None:
    """Raise OptionError if the back end could not even begin with the user's budget of epochs."""
    trials, epochs = facts_of(opts.backend).first_round(opts.max_epochs, opts.factor)
    least = trials * epochs * opts.executions_per_trial
    if opts.max_total_epochs is not None and opts.max_total_epochs < least:
        raise OptionError(
            f"--max-total-epochs is {opts.max_total_epochs}: {opts.backend_name} begins with {trials} trials of "
            f"{pluralize(epochs, 'epoch')} each, so give at least {least}"
        )


def _rehearse(backend: BackEnd, parameters: tuple[Parameter, ...]) -> None:
    """Play a trial of one epoch: wrong arguments of a sampler show at its first question."""
    suggestion = backend.ask(new=True, child=True)
    if not isinstance(suggestion, Suggestion):
        raise TypeError(f"a new back end must suggest a trial, and its ask gave {suggestion!r}")
    first, last, judged = suggestion.from_epoch, suggestion.to_epoch, suggestion.judged
    place, attributes = (suggestion.bracket, suggestion.rung), suggestion.attributes
    backend.apply(SegmentRequested(0, first, last, *place, judged, seed=0, attributes=attributes))
    for parameter in parameters:
        draw = backend.suggest(0, parameter)
        backend.apply(ParameterSet(0, parameter, draw.value, draw.attributes))
    backend.apply(EpochDone(0, 0, 1, {"loss": 1.0}, 0.0))
    if judged:
        backend.judge(0, 1)


def check_try_first(
    configurations: Sequence[Mapping[str, Value]],
    parameters: Sequence[Parameter],
    probe: Callable[[Mapping[str, Value]], Probed | ProbeFailed],
) -> list[str]:
    """Check that the configurations of `--try-first` can be tried, as far as that can be known.

    A build with these values may ask for a name that a build with defaults did not ask for, so `probe` builds with
    them. A name that is still unknown may belong to a branch that a drawn value enters, if the space has branches.

    Args:
        configurations: values by name.
        parameters: those that a build with defaults declares.
        probe: builds with the values that it is given.

    Returns:
        A line for each name that is still unknown.

    Raises:
        OptionError: a value cannot be used, or no build can ask for a name.
    """
    known = {parameter.key: parameter for parameter in parameters}
    branches = any(parameter.conditions for parameter in parameters)
    doubtful: list[tuple[Mapping[str, Value], Probed]] = []
    for values in configurations:
        _check_values(values, known)
        if values.keys() <= _names(known):
            continue
        probed = probe(values)
        if isinstance(probed, ProbeFailed):
            raise OptionError(f"--try-first {json.dumps(values)} cannot be built: {probed.message}")
        declared = {parameter.key: parameter for parameter in (*probed.parameters, *probed.inactive)}
        branches |= not declared.keys() <= known.keys() or any(parameter.conditions for parameter in declared.values())
        known |= declared
        _check_values(values, known)
        doubtful.append((values, probed))
    # The build of a later configuration may have asked for a name.
    return _unknown_names(doubtful, _names(known), branches=branches)


def _unknown_names(
    doubtful: Sequence[tuple[Mapping[str, Value], Probed]], known: set[str], *, branches: bool
) -> list[str]:
    """Return a line for each name that is not `known`. OptionError if no build can ask for it.

    Args:
        doubtful: configurations, each with the findings of a build with its values.
        known: the names that some build has asked for.
        branches: whether the answers decide what is asked for, as far as the builds have shown.
    """
    lines: dict[str, str] = {}
    for values, probed in doubtful:
        for name in values:
            if name in known:
                continue
            given, near = f"--try-first gives {name!r}, which", nearest(name, known - values.keys())
            # A `fit` of the user's own that the probe could not follow to the training may ask for more.
            followed = bool(probed.metrics) or not probed.own_fit
            if followed and _is_determined(values, probed):
                raise OptionError(f"{given} is not asked for: leave it out.{near}")
            if followed and not branches:
                branch = "If a branch asks for it, give the values that lead there, too"
                raise OptionError(f"{given} is not asked for: leave it out.{near} {branch}")
            lines[name] = f"{given} no build has asked for: a trial uses it only if a branch asks for it.{near}"
    return list(lines.values())


def _is_determined(values: Mapping[str, Value], probed: Probed) -> bool:
    """Return whether `values` answer every question of the build, so that the trial's build asks no others."""
    return all(parameter.name in values or parameter.domain.size == 1 for parameter in probed.parameters)


def _names(parameters: Mapping[str, Parameter]) -> set[str]:
    return {parameter.name for parameter in parameters.values()}


def _check_values(values: Mapping[str, Value], known: Mapping[str, Parameter]) -> None:
    for name, value in values.items():
        found = [parameter for parameter in known.values() if parameter.name == name]
        if found and not any(parameter.domain.contains(value) for parameter in found):
            raise OptionError(f"--try-first gives {name} the value {value!r}, and it takes {found[0].domain}")


def make_folder(folder: Path) -> None:
    """Make a study's folder. OptionError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"{folder} cannot be written ({error.strerror}): give a folder that can with --runs"
        ) from None


def describe_differences(before: tuple[Parameter, ...], now: tuple[Parameter, ...]) -> str:
    """Return the differences between the parameters, in words."""
    old = {parameter.key: parameter for parameter in before}
    new = {parameter.key: parameter for parameter in now}
    found = [f"{key} is gone" for key in old if key not in new]
    found += [f"{key} is new" for key in new if key not in old]
    found += [
        f"{key} was {old[key].domain} and is {new[key].domain}"
        for key in old
        if key in new and old[key].domain != new[key].domain
    ]
    return "; ".join(found) or "its parameters are the same, its code or a module beside it is not"


def describe_direction(objective: Objective, opts: Options, probed: Probed) -> list[str]:
    """Return a line for people if a resumed study would have another objective if it began now, else none.

    There is none either if the user gave the direction: the study began with it.
    """
    if opts.direction is not None:
        return []
    kept = f"this study {_VERBS[objective.direction]}s {objective.name}, as journaled"
    try:
        new = objective_of(opts, probed)
    except OptionError as error:
        return [f"{kept}; a new study would be refused: {error}"]
    if new == objective:
        return []
    return [f"{kept}; a new study would {_VERBS[new.direction]} {'it' if new.name == objective.name else new.name}"]


_VERBS = {"min": "minimise", "max": "maximise"}


def describe_updates(format: int, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return lines for people about changes since the study last ran: the journal's format, the libraries.

    Args:
        format: of the journal's last line.
        before: the libraries of the last process.
        now: the libraries that a worker has found now.
    """
    lines = []
    if format < FORMAT:
        lines.append(
            f"its journal was written in format {format} and goes on in format {FORMAT}: older versions of "
            "search can no longer read it"
        )
    changed = changed_versions(before, now)
    if changed:
        lines.append(
            f"it last ran with {changed}: it goes on, but its draws and curves need no longer be those of a search "
            "that was never interrupted"
        )
    return lines
