"""Tables from the exact type of an operation to the function that writes it: one for each form of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from converters.errors import ConversionError
from converters.operations import Operation

__all__ = ["Table"]

F = TypeVar("F", bound=Callable)


class Table(Generic[F]):
    """Functions by the exact types of operations.

    Parameters
    ----------
    form : str
        Of the model, for messages.
    linear : callable, optional
        For a linear operation that has no function of its own.

    Examples
    --------
    >>> from converters.operations import Flatten, Reshape
    >>> table: Table[Callable[[], str]] = Table("whole numbers")
    >>> @table.says(Flatten, Reshape)
    ... def shape() -> str:
    ...     return "Reshape"
    >>> table.of(Flatten())()
    'Reshape'
    """

    def __init__(self, form: str, linear: F | None = None) -> None:
        self.form, self._linear = form, linear
        self._functions: dict[type[Operation], F] = {}

    def says(self, *kinds: type[Operation]) -> Callable[[F], F]:
        """Decorator: enter a function for operations of these types; one of your own may be entered, too."""

        def enter(function: F) -> F:
            self._functions.update(dict.fromkeys(kinds, function))
            return function

        return enter

    def of(self, op: Operation) -> F:
        """The function of an operation.

        Raises
        ------
        ConversionError
            If there is none.
        """
        if type(op) not in self._functions:
            if op.linear and self._linear is not None:
                return self._linear
            kind = type(op).__name__
            todo = "enter a function for it, with the decorator says of WHOLE and QUANTISED in converters.onnx_export"
            raise ConversionError(kind, f"an operation without ONNX nodes in {self.form}", todo)
        return self._functions[type(op)]

    def __contains__(self, kind: type[Operation]) -> bool:
        return kind in self._functions
