"""What a run's JSON may hold: the types and bounds of every field that the report reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from reprlib import Repr
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, model_validator

from calif_plugins.parameters import Phase
from converters.errors import FileFormatError

__all__ = ["check_run"]

_EXACT = 2**53  # whole numbers that the page's script reads as they are
_DEEPEST = 32
_LARGEST = 1e100  # sums and products of such numbers are finite
_MOST_NAMES = 100
_TODO = "give the JSON as calif wrote it"
_MOST_ROWS = 100  # of a matrix
_MOST_CLASSES = 100_000
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > _MOST_NAMES:
        raise ValueError(f"{len(value)} names, at most {_MOST_NAMES} are expected")
    return value


T = TypeVar("T")
Many = Annotated[list[T], FailFast()]
Few = Annotated[dict[str, T], BeforeValidator(_few)]
Count = Annotated[int, Field(ge=0, le=_EXACT)]
Steps = Annotated[int, Field(ge=1, le=_EXACT)]
Amount = Annotated[float, Field(ge=0, le=_LARGEST)]
Real = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[int, Field(ge=-_EXACT, le=_EXACT)]
Pair = Annotated[list[Real], Field(min_length=2, max_length=2)]
Task = Literal["classes", "map", "values"]
Png = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=2**20)]
Shape = Annotated[list[Steps], Field(min_length=1, max_length=4)]


class _Part(BaseModel):
    """An object of the JSON. Fields that are not named here may be there, and are not read."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


class _Deviation(_Part):
    mean_absolute: Amount | None = None
    rms: Amount | None = None
    correlation: Annotated[float, Field(ge=-1, le=1)] | None = None
    largest: Amount | None = None


class _Score(_Part):
    """How one output does."""

    name: str
    task: Task
    classes: Count = 0
    labelled: Count = 0
    quantised_accuracy: Share | None = None
    snn_accuracy: Share | None = None
    agreement: Share | None = None
    quantised_iou: Share | None = None
    snn_iou: Share | None = None
    confusion: Annotated[Many[Many[Count]], Field(max_length=_MOST_ROWS)] = []
    confused: Many[Annotated[list[Count], Field(min_length=3, max_length=3)]] = []
    quantised: _Deviation | None = None
    spiking: _Deviation | None = None
    between: _Deviation | None = None

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.classes > _MOST_CLASSES:
            raise ValueError(f"{self.classes} classes, at most {_MOST_CLASSES} are expected")
        if self.confusion and {len(self.confusion)} != {*map(len, self.confusion)}:
            raise ValueError("confusion is not square")
        return self


class _Window(_Part):
    T: Steps
    phase: Phase
    quantised_accuracy: Share | None
    snn_accuracy: Share | None
    counts_compared: Count
    count_mismatches: Count
    compared_with: str = ""
    images: Count = 0
    images_checked: Count = 0
    prediction_agreement: Share | None = None
    latency_steps: Count | None = None
    latency_steps_mean: Amount | None = None
    spikes_per_image: Amount | None = None
    sops_per_image: Amount | None = None
    macs_per_image: Amount | None = None
    anytime: Many[Share] = []
    task: Task = "classes"
    outputs: Many[_Score] = []

    @model_validator(mode="after")
    def _latencies(self) -> Self:
        if self.latency_steps is not None and self.latency_steps_mean is None:
            raise ValueError("latency_steps is without latency_steps_mean")
        return self


class _Histogram(_Part):
    low: Label
    step: Steps
    counts: Annotated[Many[Count], Field(min_length=1, max_length=_MOST_NAMES)]


class _LayerRow(_Part):
    name: str
    kind: str
    shape: Shape
    neurons: Count
    range: Pair
    positive: Amount
    negative: Amount
    fan_in: Amount = 0
    threshold: Pair = []
    macs: Amount = 0
    adds: Amount = 0
    comparisons: Amount = 0
    lookups: Amount = 0
    synapses: Amount | None = None
    sops: Amount = 0
    counts_compared: Count = 0
    mismatches: Count = 0
    silent: Share | None = None
    at_top: Share | None = None
    channels: Count = 0
    silent_channels: Count = 0
    top_channels: Count = 0
    histogram: _Histogram | None = None

    @model_validator(mode="after")
    def _costs(self) -> Self:
        if self.kind != "input" and not {"macs", "adds"} <= self.model_fields_set:
            raise ValueError("macs and adds are not both there")
        if self.counts_compared and "mismatches" not in self.model_fields_set:
            raise ValueError("counts_compared is without mismatches")
        return self


class _Detail(_Part):
    T: Steps
    phase: Phase
    compared_with: str
    neurons: Count
    coding: str
    layers: Many[_LayerRow]


class _Train(_Part):
    name: str
    positive: Many[Count]
    negative: Many[Count]
    spikes: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class _Image(_Part):
    label: Label | None
    prediction: Label | None
    end: str = ""
    steps: Steps
    pixels: list[Any]
    output: Many[Many[Real]]
    layers: Many[_Train]


class _Output(_Part):
    name: str
    counts: bool
    task: Task = "classes"


class _Map(_Part):
    name: str
    shape: Shape
    channels_shown: Steps


class _Traces(_Part):
    T: Steps
    phase: Phase
    input: str
    output: _Output
    layers: Many[_Map]
    input_shape: Shape
    input_channels_shown: Steps
    input_range: Pair
    images: Many[_Image]

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        """The page's script makes room for what is announced: no more than there is."""
        shown = {m.name: m.channels_shown * math.prod(m.shape[1:]) for m in self.layers}
        shown[self.input] = self.input_channels_shown * math.prod(self.input_shape[1:])
        for k, image in enumerate(self.images):
            if len(image.output) != image.steps:
                raise ValueError(f"images[{k}].output has {len(image.output)} rows for {image.steps} steps")
            if len({len(row) for row in image.output}) != 1 or not image.output[0]:
                raise ValueError(f"images[{k}].output has rows of several lengths, or empty ones")
            if not _has_shape(image.pixels, self.input_shape):
                raise ValueError(f"images[{k}].pixels are not numbers of the input's shape")
            for train in image.layers:
                if train.name not in shown:
                    raise ValueError(f"images[{k}] has spikes of a layer that is not among the layers")
                spikes = image.steps * shown[train.name]
                if not len(train.positive) == len(train.negative) == image.steps:
                    raise ValueError(f"images[{k}] has sums that are not of its {image.steps} steps")
                if len(train.spikes) != 4 * -(-spikes // 12):  # four to a byte, three bytes to four letters
                    raise ValueError(f"images[{k}] has {len(train.spikes)} letters for {spikes} spikes")
            if not {m.name for m in self.layers} <= {t.name for t in image.layers}:
                raise ValueError(f"images[{k}] has no spikes of some layers")
        return self


def _has_shape(value: object, shape: list[int]) -> bool:
    if not shape:
        return type(value) in (int, float)
    return isinstance(value, list) and len(value) == shape[0] and all(_has_shape(v, shape[1:]) for v in value)


class _Wrong(_Part):
    """An image that the network gets wrong."""

    index: Count
    label: Label
    prediction: Label
    picture: Png | None = None


class _Shown(_Part):
    """An image of a map: picture, label and prediction."""

    picture: Png | None = None
    label: Png | None = None
    prediction: Png
    right: Share | None = None


class _Answer(_Part):
    name: str
    task: Task
    classes: Annotated[int, Field(ge=0, le=_MOST_CLASSES)] = 0
    images: Annotated[Many[_Shown], Field(max_length=_MOST_NAMES)] = []
    points: Many[Pair] = []


class _Details(_Part):
    images: Count = 0
    windows: Many[_Detail] = []
    traces: _Traces | None = None
    answers: Many[_Answer] = []
    wrong: Annotated[Many[_Wrong], Field(max_length=_MOST_NAMES)] = []
    names: Annotated[Many[str], Field(max_length=_MOST_CLASSES)] = []
    versions: Few[str] = {}

    @model_validator(mode="after")
    def _means(self) -> Self:
        if self.windows and "images" not in self.model_fields_set:
            raise ValueError("windows are without the number of images")
        return self


class _Checked(_Part):
    images: Count
    spikes_compared: Count
    spike_mismatches: Count


class _CheckedLayer(_Part):
    layer: str
    neurons: Count
    steps: Count
    spikes_compared: Count
    positive: Count
    negative: Count
    differing: Count
    membrane_difference: Amount


class _Check(_Part):
    backends: Annotated[list[str], Field(min_length=1)]
    T: Steps
    phase: Phase
    images: Count
    layers: Few[Many[_CheckedLayer]]


class _Row(_Part):
    """A row of ``calif interop``; other commands' rows have no simulator."""

    simulator: str = ""
    version: str | None = None
    route: str | None = None
    layers: Count | None = None
    spikes_compared: Count | None = None
    differing: Count | None = None
    seconds: Amount | None = None
    note: str | None = None


class _Run(_Part):
    network: str | None = None
    dataset: str | None = None
    toolkit: str | None = None
    levels: Count | None = None
    weight_bits: Count | None = None
    seed: Count | None = None
    float_accuracy: Share | None = None
    quantised_accuracy: Share | None = None
    nir_file: str | None = None
    checkpoint: str | None = None
    labels: str | None = None
    command: str | None = None
    report_command: str | None = None
    date: str | None = None
    windows: Many[_Window] = []
    details: _Details = _Details()
    cross_check: _Checked | None = None
    checks: Many[_Check] = []
    interop: Many[_Row] = []
    rows: Many[_Row] = []


def check_run(run: object, where: str) -> None:
    """See that a run is one: that its fields have the types that their command gives them, and finite numbers.

    Parameters
    ----------
    run : object
        As ``json.loads`` returned it.
    where : str
        The file, for the message.

    Raises
    ------
    FileFormatError
        Naming the field.

    Examples
    --------
    >>> check_run({"windows": [], "seed": 1, "details": {"images": float("nan")}}, "run.json")
    Traceback (most recent call last):
    converters.errors.FileFormatError: run.json: found details.images = nan (a finite number is expected); give ...
    """
    if not isinstance(run, dict):
        raise FileFormatError(where, f"a JSON {type(run).__name__}", _TODO)
    fault = _unsound(run)
    if fault is None:
        try:
            _Run.model_validate(run)
        except ValidationError as error:
            fault = _told(error, run)
    if fault is not None:
        raise FileFormatError(where, fault, _TODO)


def _unsound(run: dict[str, Any]) -> str | None:
    """What is wrong with a value that no field may have, its place included; nothing is left out."""
    place: list[int | str] = []
    waiting = [_inner(run)]  # one iterator for each level: no more memory than the nesting takes
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            place = place[:-1]
            continue
        key, value = found
        if isinstance(key, str) and not _writable(key):
            return f"{_path([*place, repr(key)])}, a name with half of a surrogate pair"
        if isinstance(value, dict | list | tuple):
            place.append(key)
            waiting.append(_inner(value))
            if len(place) > _DEEPEST:
                return f"{_path(place[:3])}..., nested more than {_DEEPEST} deep"
        elif fault := _unsound_leaf(value):
            return f"{_path([*place, key])} = {_SHORT.repr(value)} ({fault})"
    return None


def _inner(value: Any) -> Iterator[tuple[int | str, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _unsound_leaf(value: object) -> str | None:
    if isinstance(value, str):
        return None if _writable(value) else "half of a surrogate pair"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a finite number is expected"
    return "at most 2^53 is expected" if isinstance(value, int) and abs(value) > _EXACT else None


def _writable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _path(place: Sequence[int | str]) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in place).lstrip(".") or "the run"


def _told(error: ValidationError, run: Any) -> str:
    """The first fault, with its place and value."""
    first = error.errors(include_url=False, include_input=False)[0]
    value, place = run, first["loc"]
    known: list[int | str] = []
    for key in place:
        if not isinstance(value, dict | list) or (isinstance(value, dict) and key not in value):
            break
        value, known = value[key], [*known, key]  # type: ignore[index]
    if first["type"] == "missing":
        return f"{_path(place)}, which is missing"
    if first["type"] == "value_error":
        return f"{_path(known)}: {first['msg'].removeprefix('Value error, ')}"
    wanted = {"model_type": "an object is expected", "dict_type": "an object is expected"}.get(first["type"])
    wanted = wanted or first["msg"].replace("Input should be", "it should be", 1)
    return f"{_path(known)} = {_SHORT.repr(value)} ({wanted})"
