"""The methods by which a factory asks for hyperparameters, for all classes that answer in place of KerasTuner."""

from __future__ import annotations

import functools
import re
from typing import Any

from search.errors import nearest
from search.space.domain import QUESTIONS


class QuestionMethods:
    """The question methods of KerasTuner's `HyperParameters`. A subclass answers them all in `_answer_question`.

    Each method takes the parameter's name and KerasTuner's arguments. It returns the parameter's value, or None if a
    condition makes the parameter inactive. The methods below take the place of KerasTuner's own; those of all further
    kinds in `search.space.domain.QUESTIONS` are found by `__getattr__`.
    """

    def Int(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a whole number for `name`; `args` and `kwargs` are min_value, max_value, step, sampling, default."""
        return self._answer_question("Int", name, args, kwargs)

    def Float(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a real number for `name`; `args` and `kwargs` are min_value, max_value, step, sampling, default."""
        return self._answer_question("Float", name, args, kwargs)

    def Choice(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return one of the listed values for `name`; `args` and `kwargs` are values, ordered, default."""
        return self._answer_question("Choice", name, args, kwargs)

    def Boolean(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return True or False for `name`; `args` and `kwargs` have the default."""
        return self._answer_question("Boolean", name, args, kwargs)

    def Fixed(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return the one value of `name`, which `args` and `kwargs` give."""
        return self._answer_question("Fixed", name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return the question method `name`, or raise AttributeError with the name of the method that is meant."""
        if name in QUESTIONS:
            return functools.partial(self._ask_question, name)
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        words = set(re.findall(r"[a-z]+", name.lower()))
        meant = next((kind for kind, cls in QUESTIONS.items() if not words.isdisjoint(cls.other_names)), None)
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        near = f" Did you mean 'hp.{meant}'?" if meant else nearest(name, public).replace("'", "'hp.", 1)
        raise AttributeError(f"hp has no {name!r}.{near}")

    def _ask_question(self, kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question(kind, name, args, kwargs)

    def _answer_question(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of the parameter `name`, or None if it is inactive.

        Args:
            kind: the name of the question method.
            args, kwargs: the method's arguments after `name`.
        """
        raise NotImplementedError
