"""Optuna's samplers by name, and a parameter as Optuna sees it.

The samplers' papers:

- `tpe`: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", NeurIPS.
- `gp`: Jones et al. 1998, "Efficient Global Optimization of Expensive Black-Box Functions", J. Global Optimization 13.
- `cmaes`: Hansen 2016, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772.
- `nsgaii`, `nsgaiii`: Deb et al. 2002, IEEE Trans. Evolutionary Computation 6; Deb and Jain 2014, the same, 18.
- `qmc`: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", JMLR 13.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from search.errors import OptionError, nearest
from search.plugins.spec import parse_arguments
from search.space.domain import Domain, Parameter, Value

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS: dict[str, type[BaseSampler]] = {
    "bruteforce": optuna.samplers.BruteForceSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
    "grid": optuna.samplers.RandomSampler,  # never asked: `grid.next_value` draws
    "nsgaii": optuna.samplers.NSGAIISampler,
    "nsgaiii": optuna.samplers.NSGAIIISampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
}

_REQUIRED_PACKAGES = {"gp": ("torch", "scipy"), "qmc": ("scipy",)}


# Options --------------------------------------------------------------------------------------------------------------


def parse_spec(spec: str, known: Mapping[str, Callable[..., Any]], option: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a specification.

    Args:
        spec: `name` or `name:key=value,…`.
        known: classes or functions by name; their signatures say which arguments there are.
        option: the command-line option, for messages.

    Raises:
        OptionError: the name or an argument is not known.
    """
    name, _, text = spec.partition(":")
    if name not in known:
        raise OptionError(f"{option} {name!r} is not known: use one of {', '.join(known)}.{nearest(name, known)}")
    allowed = [key for key in inspect.signature(known[name]).parameters if key != "seed"]
    return name, parse_arguments(text, allowed, option, name)


def instantiate(option: str, spec: str, cls: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return `cls(**arguments)`, without its warnings.

    Raises:
        OptionError: `cls` refuses the arguments; the message names `option` and `spec`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cls(**arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise OptionError(f"{option} {spec!r} cannot be used: {error}") from None


class SamplerFactory:
    """A callable that makes the sampler `spec` names, each time with another seed.

    Args:
        spec: `name` or `name:key=value,…`, names as in `SAMPLERS`.
        seed: of the study.
        parameters: those that the probe saw.

    Raises:
        OptionError: the sampler is not known, does not take these arguments, or needs a package that is missing.
    """

    def __init__(self, spec: str, seed: int, parameters: Sequence[Parameter] = ()) -> None:
        self.spec = spec
        self.parameters = tuple(parameters)
        self.name, self._arguments = parse_spec(spec, SAMPLERS, "--sampler")
        self._seed = seed
        required = _REQUIRED_PACKAGES.get(self.name, ())
        missing = [package for package in required if importlib.util.find_spec(package) is None]
        if missing:
            raise OptionError(
                f"--sampler {self.name} needs {' and '.join(missing)}: pip install {' '.join(missing)}, or use another"
            )
        for package in required:
            importlib.import_module(package)  # before the first draw, so that it runs in one thread as all others do
        self(0)  # refuses arguments that cannot be used

    @property
    def startup_trials(self) -> int:
        """The fewest complete trials with which the sampler uses its model; 0 if it always does."""
        known = inspect.signature(SAMPLERS[self.name]).parameters.get("n_startup_trials")
        return 0 if known is None else int(self._arguments.get("n_startup_trials", known.default))

    @property
    def excludes_source_trials(self) -> bool:
        """True if the arguments give CMA-ES its start, or choose a kind of it that takes no source trials."""
        return not self._arguments.keys().isdisjoint(("x0", "sigma0", "source_trials", "use_separable_cma"))

    def __call__(self, seed: int, **more: Any) -> BaseSampler:
        arguments = {**self._arguments, **more}
        cls = SAMPLERS[self.name]
        if self.name == "qmc":
            # The whole study shares one sequence. Only parameters outside it are drawn with a seed of their own.
            arguments |= {"seed": self._seed, "independent_sampler": optuna.samplers.RandomSampler(seed=seed)}
        else:
            arguments["seed"] = seed
        sampler: BaseSampler = instantiate("--sampler", self.spec, cls, arguments)
        return sampler


# Values ---------------------------------------------------------------------------------------------------------------


def _int_distribution(domain: Domain) -> BaseDistribution | None:
    if domain.sampling == "reverse_log" or (domain.sampling == "log" and domain.step is not None):
        return None
    low, step, size = int(domain.low), int(domain.step or 1), domain.size
    assert size is not None
    return IntDistribution(low, low + (size - 1) * step, domain.sampling == "log", step)


def _float_distribution(domain: Domain) -> BaseDistribution | None:
    if domain.sampling == "reverse_log" or domain.step is not None:
        return None
    return FloatDistribution(domain.low, domain.high, domain.sampling == "log")


def _categories(domain: Domain) -> BaseDistribution | None:
    return None if domain.ordered else CategoricalDistribution(domain.values)


DISTRIBUTIONS: dict[str, Callable[[Domain], BaseDistribution | None]] = {
    "int": _int_distribution,
    "float": _float_distribution,
    "choice": _categories,
    "boolean": _categories,
    "fixed": _categories,
}
"""By kind of domain, the distribution of Optuna's that has the domain's own values; None if it has none.

Optuna sees the values of such a domain, and of kinds that are not here, as indices or cumulative probabilities."""


class Axis:
    """A parameter as Optuna sees it: a name, a distribution, and the conversion of values to and fro.

    A domain that no Optuna distribution can express (a ratio as step, a reversed logarithm) becomes an index or a
    cumulative probability. The name of such an axis, or of one with categories, contains the domain, so that those of
    two domains are never mixed. The names are in journals.
    """

    def __init__(self, parameter: Parameter) -> None:
        domain = self._domain = parameter.domain
        own = DISTRIBUTIONS.get(domain.kind, _no_distribution)(domain)
        self._direct = own is not None
        self.distribution: BaseDistribution = own or _position(domain)
        is_range = self._direct and domain.is_range
        self.name = f"{parameter.key} ({f'{domain.kind} {domain.sampling}' if is_range else domain})"

    def encode(self, value: Value) -> Any:
        """Return the value that Optuna has in the place of `value`."""
        if self._direct:
            return value
        if isinstance(self.distribution, IntDistribution):
            return self._domain.index(value)
        return self._domain.unit(value)

    def decode(self, value: Any) -> Value:
        """Return the parameter's value for Optuna's `value`, in Python's types."""
        if self._direct:
            return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]
        if isinstance(self.distribution, IntDistribution):
            return self._domain.value(int(value))
        return self._domain.at(min(float(value), 1 - 2**-53))

    def contains(self, value: Any) -> bool:
        """Return whether Optuna's `value` lies in the axis's distribution."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return value in choices
            case IntDistribution(low=low, high=high, step=step):
                return bool(low <= value <= high and (value - low) % step == 0)
            case FloatDistribution(low=low, high=high):
                return bool(low <= value <= high)
        raise AssertionError("Axis makes no other distribution")


def _no_distribution(domain: Domain) -> None:
    return None


def _position(domain: Domain) -> BaseDistribution:
    """Return the distribution of the index of the domain's values, or of their cumulative probability."""
    size = domain.size if domain.step is not None or not domain.is_range else None
    return FloatDistribution(0.0, 1.0) if size is None else IntDistribution(0, size - 1)
