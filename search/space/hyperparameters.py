"""The methods by which a factory asks for hyperparameters, for all classes that answer in place of KerasTuner."""

from __future__ import annotations

from typing import Any


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

    def _answer_question(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of the parameter `name`, or None if it is inactive.

        Args:
            kind: the name of the question method.
            args, kwargs: the method's arguments after `name`.
        """
        raise NotImplementedError
