"""Training: float first, then quantisation-aware; resumable after every epoch; the same bits for the same seed.

The float phase does not depend on the levels: its weights are kept beside the run and serve all of them.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from converters.devices import usable
from converters.errors import ConversionError
from converters.files.locking import locked
from converters.frontends.layer_levels import LayerLevels, LevelNumbers
from converters.frontends.level_quantiser import RangeObserver
from converters.frontends.pt2e import freeze_observers, from_pt2e, prepare_qat, thaw_observers
from converters.frontends.pt2e_training import training_view
from converters.quantised import QuantGraph
from converters.zoo.averaging import WeightMean, measure_batch_norms
from converters.zoo.datasets import Images
from converters.zoo.depthwise import DenseDepthwise
from converters.zoo.networks import build
from converters.zoo.norms import restate_batch_norms
from converters.zoo.optimisers import Optimisers
from converters.zoo.processes import team
from converters.zoo.recipes import Recipe
from converters.zoo.recorded import Gradients
from converters.zoo.restored import example_images, names_quantised, restored
from converters.zoo.surroundings import own_settings
from converters.zoo.teachers import Teachers
from converters.zoo.training_file import Checkpoint, load_weights, read_checkpoint_of, write_checkpoint, write_log
from converters.zoo.training_state import beyond_state_dict, optimiser_state, put_back_model, put_back_optimiser

__all__ = ["TrainResult", "accuracy", "train"]

Progress = Callable[[str, int, int], None]
_OCCUPIED = "wait for it, or use another --out"
_SAVE_EVERY = 30.0  # seconds
_AVERAGE_RATE = 0.3  # of the peak rate, while weights are averaged


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The quantised network, its accuracy and the float network's on the test images, and one row per epoch.

    ``float_accuracy`` is None where no float network was trained.
    """

    graph: QuantGraph
    float_accuracy: float | None
    quantised_accuracy: float
    log: list[dict[str, Any]]


@own_settings()
def train(
    network: str,
    data: Images,
    test: Images,
    *,
    folder: str | os.PathLike,
    name: str,
    recipe: Recipe,
    levels: LevelNumbers = 127,
    weight_bits: int = 8,
    seed: int = 0,
    quantise_output: bool = True,
    input_levels: int | None = None,
    per_channel_norms: bool = False,
    toolkit: str = "pt2e",
    start: str | os.PathLike | None = None,
    teachers: Sequence[str | os.PathLike] = (),
    progress: Progress | None = None,
    device: str = "cpu",
) -> TrainResult:
    """Train a network of the zoo, float and then quantised.

    Parameters
    ----------
    network : str
        Name in :data:`~converters.zoo.networks.NETWORKS`.
    data, test : Images
    folder : path
        Checkpoints: ``<network>-<data name>.float.pt``, ``….average.pt`` where weights are averaged, and
        ``<name>.qat.pt``, with a ``.jsonl`` log each.
    name : str
        ``network-dataset-levels``.
    recipe : Recipe
    levels, weight_bits, quantise_output, input_levels, per_channel_norms
        See :func:`converters.prepare_qat`.
    toolkit : {"pt2e", "brevitas"}
    start : path, optional
        A ``.float.pt`` or ``.average.pt`` of an earlier run of the same network: its weights instead of random ones.
        Or a ``.qat.pt``, whose weights and ranges the quantised phase then starts from; there is no float phase.
        Or a quantised network, a ``.safetensors`` file or a checkpoint's name, for either phase: its weights, and
        batch norms with the statistics of 512 of the images (:mod:`~converters.zoo.restored`).
        The result's log begins with that run's.
    teachers : sequence of path
        ``.float.pt`` of networks for the same data, or quantised ones; see :class:`~converters.zoo.teachers.Teachers`.
        They take part in both phases.
    seed : int
        Below 2**42 in size.
    progress : callable ``(phase, done, total)`` in batches, optional
    device : str
        Where images, network and gradients lie, for example ``cuda``. On a CPU a seed gives the same bits again; an
        accelerator adds in another order from run to run. Checkpoints can be resumed on any device.

    Raises
    ------
    ConversionError
        If the device is not here; if a checkpoint in the folder belongs to another network, recipe or seed; if the
        network does not take images of this size, as most take only squares; with several processes, for
        ``brevitas``, whose observers look at each process's share alone.

    Under ``torchrun`` each process computes its share of every batch (:mod:`converters.zoo.processes`); the first
    one writes.
    """
    usable(device)
    folder, crew = Path(folder), team()
    asked = LayerLevels.of(levels)
    _refuse(toolkit, crew.count, input_levels, per_channel_norms, seed)
    data, test = data.with_gradients(), test.with_gradients()
    shape = data.shape
    _refuse_augmentation(recipe, shape)
    about = {"network": network, "shape": list(shape), "classes": data.classes, "images": len(data), "seed": seed}
    torch.manual_seed(seed)
    model = build(network, shape[0], data.classes, shape[-1])
    for size in dict.fromkeys((shape, test.shape)):
        _check_shape(model, network, size)
    folder.mkdir(parents=True, exist_ok=True)
    before: list[dict[str, Any]] = []
    quantised_start: Checkpoint | None = None
    if start is not None:
        start = Path(start)
        base = name.rsplit("-", 1)[0]
        before, quantised_start = _begin_with(start, about, model, data, bool(recipe.epochs or recipe.average), base)
    tutors = Teachers([Path(path) for path in teachers], about) if teachers else None
    if tutors is not None:
        about["teachers"] = tutors.names
        tutors.to(device)
    model = model.to(device)
    if recipe.fast:
        model = model.to(memory_format=torch.channels_last)
    about["data"] = f"{data.digest()[:32]} {test.digest()[:32]}"
    example, two = data[: min(recipe.batch, 32)].pixels, data[:2].pixels
    data, test = data.to(device), test.to(device)
    settings = {k: v for k, v in _settings(recipe).items() if not k.startswith("qat")}
    # each phase locks its own checkpoint, of which runs of other levels share the float one
    with locked(folder / name, _OCCUPIED) if crew.first else nullcontext():
        base = name.rsplit("-", 1)[0]
        phase = partial(_Run, recipe=recipe, data=data, test=test, seed=seed, progress=progress, teachers=tutors)
        run = phase("float", folder / f"{base}.float.pt", {**about, **settings}, before=before)
        log = before + run(model, recipe.epochs, recipe.lr)
        if recipe.average:
            about["average"] = recipe.average
            run = phase("average", folder / f"{base}.average.pt", {**about, **settings}, before=log)
            log = log + run(model, recipe.average, _AVERAGE_RATE * recipe.lr)
        float_accuracy = next(
            (row["accuracy"] for row in reversed(log) if row["phase"] != "qat" and "accuracy" in row), None
        )

        prepare, finish = TOOLKITS[toolkit]
        options = {"levels": asked.plain, "weight_bits": weight_bits, "quantise_output": quantise_output}
        if input_levels not in (None, asked.rest):
            options["input_levels"] = input_levels
        options |= {"per_channel_norms": True} if per_channel_norms else {}
        # prepared on the CPU, whose exporter needs no other device, and moved from there
        qat = prepare(model.cpu(), example, signed_input=data.signed, **options).to(device)
        for module in qat.modules():
            if crew.count > 1 and type(module) is RangeObserver:
                module.sampler = crew.sampler
        if quantised_start is not None and start is not None:
            load_weights(qat, quantised_start, start)
            thaw_observers(qat)  # other levels, other ranges
        settings = {**_settings(recipe), **options, "signed": data.signed}
        settings |= {} if toolkit == "pt2e" else {"toolkit": toolkit}
        if recipe.fast:
            qat = qat.to(memory_format=torch.channels_last)  # the exporter has made its weights contiguous
        run = phase("qat", folder / f"{name}.qat.pt", {**about, **settings}, freeze=toolkit == "pt2e", before=log)
        qat_log = run(qat, recipe.qat_epochs, recipe.qat_lr)
        if not qat_log:  # without training it must at least see data
            qat.train()
            some = data[: recipe.batch]
            with crew.whole_batch(len(some)):
                qat(some[crew.share(len(some))].pixels)
        qat.eval()
        graph = finish(qat.cpu(), two)
        mine = test[crew.share(len(test))]
        right = sum(int((graph.predict(part.pixels) == part.labels).sum()) for part in _split(mine, 512))
        return TrainResult(graph, float_accuracy, crew.total(right)[0] / max(len(test), 1), log + qat_log)


def _refuse(toolkit: str, processes: int, input_levels: int | None, per_channel_norms: bool, seed: int) -> None:
    if processes > 1 and toolkit != "pt2e":
        raise ConversionError("--toolkit", f"{toolkit!r} with {processes} processes", "use pt2e, or one process")
    if input_levels is not None and toolkit != "pt2e":
        raise ConversionError("--input-levels", f"{input_levels} for {toolkit}", "use --toolkit pt2e")
    if per_channel_norms and toolkit != "pt2e":
        raise ConversionError("--per-channel-norms", f"a network of {toolkit}", "use --toolkit pt2e")
    if abs(seed) >= 2**42:  # _mix makes some two million times as much of it, in torch's 64 bits
        raise ConversionError("--seed", f"{seed}", "use a whole number between -2**42 and 2**42")


def _refuse_augmentation(recipe: Recipe, shape: tuple[int, ...]) -> None:
    if not 0 <= recipe.cutout <= min(shape[1:]):
        found = f"{recipe.cutout} of images of {' x '.join(map(str, shape[1:]))} pixels"
        raise ConversionError("--cutout", found, "use at most their side")
    if recipe.mixup and not 0.01 <= recipe.mixup <= 100:  # of less, float32 has no shares between 0 and 1
        raise ConversionError("--mixup", f"{recipe.mixup:g}", "use 0, or a number from 0.01 to 100")


def _begin_with(
    start: Path, about: dict[str, Any], model: nn.Module, data: Images, float_phase: bool, base: str
) -> tuple[list[dict[str, Any]], Checkpoint | None]:
    """The weights that a run begins with, into ``model``, and the rows of their training; of a quantised run its
    checkpoint instead, which is for later. ``base``: the run's network and data set, ``network-dataset``."""
    if names_quantised(start):
        found = restored(start, about, network=about["network"])
        restate_batch_norms(found.model, data[example_images(len(data), math.prod(data.shape[1:]))].pixels)
        model.load_state_dict(found.model.state_dict())
        about["start"] = found.about
        same = f"{about['network']}-{Path(found.dataset or '').name}" == base
        return found.log if same else [], None  # accuracies on other images are none of this run's
    run = read_checkpoint_of(
        start, about, ("network", "shape", "classes"), "a checkpoint", "start from one of the same network"
    )
    about["start"] = f"{start.name} after {len(run.whole_log)} epochs"
    if "levels" not in run.about:
        load_weights(model, run, start)
        return run.whole_log, None
    if float_phase:
        todo = "use --epochs 0 without --average, or start from a .float.pt"
        raise ConversionError(str(start), "a quantised run, before a float phase", todo)
    return run.whole_log, run


@torch.no_grad()
def _check_shape(model: nn.Module, network: str, shape: tuple[int, ...]) -> None:
    """Refuse images that the network does not take: it sees a black one, in evaluation mode, so that nothing moves."""
    model.eval()
    try:
        model(torch.zeros(1, *shape))
    except RuntimeError:
        found = f"{' x '.join(map(str, shape[1:]))} pixels, which {network} does not take"
        todo = "resize those for training and for tests to one square size"
        raise ConversionError("images", found, todo) from None
    model.train()


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint says of its recipe; later settings only where they change what was done before."""
    plain = asdict(Recipe())
    later = ("nesterov", "patience", "cutout", "mixup", "qat_optimiser", "qat_average")
    return {k: v for k, v in asdict(recipe).items() if k != "average" and (k not in later or v != plain[k])}


def _pt2e(model: nn.Module, example: Tensor, **options: Any) -> nn.Module:
    return prepare_qat(model, example, **options)


def _brevitas(model: nn.Module, example: Tensor, **options: Any) -> nn.Module:
    from converters.zoo.brevitas_layers import with_brevitas

    return with_brevitas(model, **options)


def _from_brevitas(model: nn.Module, example: Tensor) -> QuantGraph:
    from converters.frontends.brevitas import from_brevitas

    return from_brevitas(model, example)


# name: (prepare for training, convert after it)
TOOLKITS: dict[str, tuple[Callable[..., nn.Module], Callable[[nn.Module, Tensor], QuantGraph]]] = {
    "pt2e": (_pt2e, lambda model, example: from_pt2e(model)),
    "brevitas": (_brevitas, _from_brevitas),
}


class _Run:
    """One phase, resumed where its checkpoint ends."""

    def __init__(
        self,
        phase: str,
        path: Path,
        about: dict[str, Any],
        recipe: Recipe,
        data: Images,
        test: Images,
        seed: int,
        progress: Progress | None,
        teachers: Teachers | None = None,
        freeze: bool = False,
        before: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.phase, self.path, self.about, self.recipe, self.freeze = phase, path, about, recipe, freeze
        self.data, self.test, self.seed, self.progress, self.teachers = data, test, seed, progress, teachers
        self.saved = time.monotonic()
        self.before = list(before)  # rows of the phases that led here, kept with this one's

    def __call__(self, model: nn.Module, epochs: int, lr: float) -> list[dict[str, Any]]:
        """The log of all its epochs; no other process may write the same checkpoint meanwhile."""
        alone = locked(self.path, _OCCUPIED) if team().first else nullcontext()
        with alone:
            return self._train(model, epochs, lr)

    def _train(self, model: nn.Module, epochs: int, lr: float) -> list[dict[str, Any]]:
        found = self._resume(model, epochs)
        kind = self.recipe.qat_optimiser if self.phase == "qat" else self.recipe.optimiser
        optimiser = Optimisers(model, kind, lr=lr, weight_decay=self.recipe.weight_decay, nesterov=self.recipe.nesterov)
        quantised_too = self.recipe.qat_average or self.recipe.average > 0
        averages = self.phase == "average" or (self.phase == "qat" and quantised_too)
        self.mean = WeightMean(model) if averages else None
        if found is not None:
            put_back_optimiser(self.path, found, optimiser, self.mean)
        log = [] if found is None else found.log
        steps = math.ceil(len(self.data) / self.recipe.batch)
        crew, forward, step = team(), None, None
        for epoch in range(len(log), epochs):
            if self._finished(log):
                break
            if self.freeze and epoch == max(1, (2 * epochs) // 3):
                freeze_observers(model)
                step = None  # another one: a recorded step observes as it was recorded
            model.train()
            forward = forward or (training_view(model) if isinstance(model, fx.GraphModule) else model)
            step = step or self._step(forward)
            total = torch.zeros((), device=self.data.labels.device)
            torch.manual_seed(_mix(self.seed, self.phase, epoch))  # order, augmentation, dropout
            for k, (x, labels) in enumerate(self._batches()):
                done = epoch * steps + k
                schedule = _rate if self.mean is None else _constant_rate
                optimiser.set_rate(schedule(lr, done, epochs * steps, warm=steps // 2))
                part = crew.share(len(labels))
                with crew.whole_batch(len(labels)):
                    loss = step(x[part], labels[part], len(labels))
                crew.sum_gradients(model)
                optimiser.step()
                if self.mean is not None:
                    self.mean.step()
                total += loss
                if self.progress is not None:
                    self.progress(self.phase, done + 1, epochs * steps)
            loss_of_all = crew.total(float(total))[0] / steps
            row: dict[str, Any] = {"phase": self.phase, "epoch": epoch + 1, "loss": round(loss_of_all, 6)}
            if self.mean is not None and epoch + 1 == epochs:
                self.mean.take()
                thaw_observers(model)  # other weights, other ranges
                measure_batch_norms(model, self._forwards(model, 50))
            if (epoch + 1) % self.recipe.evaluate_every == 0 or epoch + 1 == epochs:
                row["accuracy"] = accuracy(model, self.test)
            if not math.isfinite(row["loss"]):
                raise ConversionError(str(self.path), "a loss that is not finite", "lower the learning rate")
            log.append(row)
            if self._is_time_to_save(last=epoch + 1 == epochs or self._finished(log)):
                self._save(model, optimiser, log)
        model.eval()
        return log

    def _forwards(self, model: nn.Module, count: int) -> Iterator[None]:
        """So many batches through the model, without labels."""
        for _, (x, labels) in zip(range(count), self._batches(), strict=False):
            with team().whole_batch(len(labels)):
                part = team().share(len(labels))
                with self._precision(x):
                    model(self._in_format(x[part]))
            yield

    def _finished(self, log: list[dict[str, Any]]) -> bool:
        """Whether the last ``patience`` looks brought nothing better."""
        looks = [row["accuracy"] for row in log if "accuracy" in row]
        p = self.recipe.patience
        return bool(p) and len(looks) > p and max(looks[-p:]) <= max(looks[:-p])

    def _step(self, model: nn.Module) -> Gradients:
        """Of Brevitas' quantisers it is not recorded: they count batches in Python, and change by that."""
        recorded = team().count == 1 and (self.phase != "qat" or self.freeze)
        return Gradients(partial(self._loss, model), model.parameters(), recorded)

    def _loss(self, model: nn.Module, x: Tensor, labels: Tensor, whole: int) -> Tensor:
        """The mean over the whole batch, or this process's share of it."""
        x = self._in_format(x)
        with self._precision(x):
            out = model(x).float()
            each = F.cross_entropy(out, labels, label_smoothing=self.recipe.label_smoothing, reduction="none")
            if self.teachers is not None:
                each = self.teachers.loss(out, x, each)
        return each.mean() if len(labels) == whole else each.sum() / whole

    def _in_format(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.fast else x

    @contextmanager
    def _precision(self, x: Tensor) -> Iterator[None]:
        fast = self.recipe.fast
        on_cpu = x.device.type == "cpu"
        stride_trick: AbstractContextManager = DenseDepthwise() if fast and on_cpu else nullcontext()
        # no cache: inside of a caller's autocast it would outlive the step, and the weights with it
        low = torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=fast, cache_enabled=False)
        with low, stride_trick:
            yield

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data)).to(self.data.labels.device)
        for index in order.split(self.recipe.batch):
            part = self.data[index]
            x = _augment(part.pixels, self.recipe)
            yield (
                _mixed(x, part.labels, self.data.classes, self.recipe.mixup) if self.recipe.mixup else (x, part.labels)
            )

    def _is_time_to_save(self, *, last: bool) -> bool:
        """After every epoch; on an accelerator, whose epochs can be shorter than a write, at most twice a minute."""
        if last or self.data.labels.device.type == "cpu" or time.monotonic() - self.saved > _SAVE_EVERY:
            self.saved = time.monotonic()
            return True
        return False

    def _save(self, model: nn.Module, optimiser: Optimisers, log: list[dict[str, Any]]) -> None:
        if not team().first:
            team().wait()
            return
        state = optimiser_state(optimiser, self.mean)
        beyond = beyond_state_dict(model)
        write_checkpoint(self.path, Checkpoint(self.about, model.state_dict(), state, log, self.before, beyond))
        team().wait()

    def _resume(self, model: nn.Module, epochs: int) -> Checkpoint | None:
        """The checkpoint of this phase, if there is one; its network is in ``model`` then."""
        if not os.path.lexists(self.path):
            return None
        mine = json.loads(json.dumps(self.about))  # tuples are lists there
        found = read_checkpoint_of(self.path, mine, None, "a checkpoint", "use another --out, or delete it")
        put_back_model(self.path, found, model, len(found.log) >= epochs or self._finished(found.log))
        if team().first:
            write_log(self.path, found.log)  # of a run that ended between the two files
        return found


@torch.no_grad()
def accuracy(model: nn.Module, data: Images, batch: int = 512) -> float:
    """Share of right arg-max predictions, in evaluation mode; ranges do not move for the images looked at."""
    training = model.training
    model.eval()
    moving: list[Any] = [m.observer_enabled for m in model.modules() if hasattr(m, "observer_enabled")]
    before = [switch.clone() for switch in moving]
    for switch in moving:
        switch.zero_()
    crew = team()
    mine = data[crew.share(len(data))]
    right = sum(int((model(part.pixels).argmax(1) == part.labels).sum()) for part in _split(mine, batch))
    for switch, value in zip(moving, before, strict=True):
        switch.copy_(value)
    model.train(training)
    return crew.total(right)[0] / max(len(data), 1)


def _split(data: Images, size: int) -> Iterator[Images]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _augment(x: Tensor, recipe: Recipe) -> Tensor:
    count = partial(torch.arange, device=x.device)
    if recipe.shift:
        n, c, h, w = x.shape
        padded = F.pad(x, (recipe.shift,) * 4)
        dy, dx = torch.randint(0, 2 * recipe.shift + 1, (2, n), device=x.device)
        rows = (dy[:, None] + count(h))[:, None, :, None]
        columns = (dx[:, None] + count(w))[:, None, None, :]
        x = padded[count(n)[:, None, None, None], count(c)[None, :, None, None], rows, columns]
    if recipe.flip:
        x = torch.where((torch.rand(len(x), device=x.device) < 0.5)[:, None, None, None], x.flip(3), x)
    if recipe.cutout:
        n, _, h, w = x.shape
        top, left = (torch.randint(0, side, (n, 1, 1, 1), device=x.device) for side in (h, w))
        rows = count(h).view(1, 1, h, 1) - top + recipe.cutout // 2
        columns = count(w).view(1, 1, 1, w) - left + recipe.cutout // 2
        inside = (rows >= 0) & (rows < recipe.cutout) & (columns >= 0) & (columns < recipe.cutout)
        x = x.masked_fill(inside, 0.0)
    return x


def _mixed(x: Tensor, labels: Tensor, classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Images mixed in pairs, and the probability of each class, float32 ``(N, classes)``."""
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),)).to(x.device)
    other = torch.randperm(len(x), device=x.device)
    pixels, target = share[:, None, None, None], F.one_hot(labels, classes).float()
    return pixels * x + (1 - pixels) * x[other], share[:, None] * target + (1 - share[:, None]) * target[other]


def _rate(peak: float, step: int, steps: int, warm: int) -> float:
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _constant_rate(peak: float, step: int, steps: int, warm: int) -> float:
    return peak * min(1.0, (step + 1) / max(1, warm))


def _mix(seed: int, phase: str, epoch: int) -> int:
    phases = {"float": 0, "qat": 1, "average": 500_001}
    return (seed * 2) * 1_000_003 + phases[phase] * 1_000_003 + epoch
