"""What a quantised network was compared with when it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from converters.errors import ConversionError

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked:
    """The comparison of a network with the model that it was made from, layer by layer.

    Attributes
    ----------
    model : str
        Whose forward pass it was compared with: ``brevitas``, ``torch_ao``, ``pt2e``...
    images : int
        Images shown to both.
    kind : str
        What these images were.
    layers : int
        Layers whose integers the toolkit shows, the input included; the others were compared through those behind them.
    integers : int
        Integers and real outputs compared.
    near_ties : int
        How many of them differ by one level because a float sum came out on the other side of a tie; the exact
        quotient is shown to be that close to it. No other difference is let through.
    seconds : float, optional
        What the comparison took; a file does not keep it.

    Examples
    --------
    >>> print(Checked("brevitas", 16, "the example, random and extreme images", 6, 120_000, 2))
    compared with brevitas on 16 images (the example, random and extreme images): 120,000 integers of 6 layers, 2
    near-ties, no other difference
    """

    model: str
    images: int
    kind: str
    layers: int
    integers: int
    near_ties: int
    seconds: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            good = type(value) is str if f.type == "str" else value is None or type(value) in (int, float)
            if not good or (f.type == "int" and (type(value) is not int or value < 0)):
                raise ConversionError(f"checked.{f.name}", repr(value), "convert again")

    def __str__(self) -> str:
        ties = f"{self.near_ties:,} near-tie{'' if self.near_ties == 1 else 's'}"
        return (
            f"compared with {self.model} on {self.images:,} images ({self.kind}): {self.integers:,} integers of "
            f"{self.layers} layers, {ties}, no other difference"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file, without the seconds: a file depends on nothing but the network."""
        return {k: v for k, v in asdict(self).items() if k != "seconds"}
