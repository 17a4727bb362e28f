"""The methods by which a factory asks for hyperparameters, for all classes that answer in place of KerasTuner."""

from __future__ import annotations

import re
from typing import Any

from search.errors import nearest

_OTHER_NAMES = {
    "Int": ("int", "integer", "randint", "qrandint"),
    "Float": ("float", "real", "double", "number", "uniform", "loguniform", "quniform"),
    "Choice": ("choice", "choices", "categorical", "category", "categories"),
    "Boolean": ("boolean", "bool"),
    "Fixed": ("fixed", "constant"),
}
"""The words by which other packages, and earlier ones, call the question methods."""


class QuestionMethods:
    """The question methods of KerasTuner's `HyperParameters`. A subclass answers them all in `_answer_question`.

    Each method takes the parameter's name and KerasTuner's arguments. It returns the parameter's value, or None if a
    condition makes the parameter inactive.
    """

    def Int(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question("Int", name, args, kwargs)

    def Float(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question("Float", name, args, kwargs)

    def Choice(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question("Choice", name, args, kwargs)

    def Boolean(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question("Boolean", name, args, kwargs)

    def Fixed(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._answer_question("Fixed", name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError with the name of the method that is meant: the attribute does not exist."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        words = set(re.findall(r"[a-z]+", name.lower()))
        meant = next((kind for kind, others in _OTHER_NAMES.items() if not words.isdisjoint(others)), None)
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        near = f" Did you mean 'hp.{meant}'?" if meant else nearest(name, public).replace("'", "'hp.", 1)
        raise AttributeError(f"hp has no {name!r}.{near}")

    def _answer_question(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of the parameter `name`, or None if it is inactive.

        Args:
            kind: the name of the question method.
            args, kwargs: the method's arguments after `name`.
        """
        raise NotImplementedError
