"""How to train each network on each data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import ConversionError

__all__ = ["RECIPES", "Recipe", "recipe_for"]


@dataclass(frozen=True)
class Recipe:
    """How to train: linear warm-up and cosine decay in both phases.

    Attributes
    ----------
    epochs, qat_epochs : int
    lr, qat_lr : float
        Peak learning rates.
    batch : int
    weight_decay, label_smoothing : float
    shift : int
        Largest random shift of an image, in pixels.
    flip : bool
        Mirror half of the images.
    cutout : int
        Side of a square at a random place of every image that is set to 0, in pixels (DeVries and Taylor 2017).
    mixup : float
        Every image is a mean of itself and another one of its batch, and so is its label, with a weight of the beta
        distribution of this parameter, twice (Zhang et al. 2018): 1 takes all weights alike, 0 no other image.
    optimiser : {"sgd", "muon", "muon-dense"}
        Of the float phase; see :class:`~converters.zoo.optimisers.Optimisers`.
    qat_optimiser : {"sgd", "muon", "muon-dense"}
        Of the quantised phase.
    average : int
        Epochs after the float phase, at a constant rate of 0.3 ``lr``, of whose weights the mean is taken
        (:mod:`converters.zoo.averaging`). The quantised phase then ends with a mean too.
    qat_average : bool
        The quantised phase keeps to its peak rate and ends with the mean of its weights, whatever came before.
    fast : bool
        Channels-last and bfloat16 in both phases. Gradients are noisier for it; what is converted are the float32
        weights and scales, so nothing of it reaches the integers.
    evaluate_every : int
        Epochs from one look at the test images to the next; the last epoch of a phase always takes one.
    nesterov : bool
        Whether SGD's momentum is Nesterov's.
    patience : int
        A phase ends after so many looks without a better accuracy; 0: never. (Whoever reports a test accuracy should
        give images of their own to look at, for example a part of the training set in a folder's ``test/``.)
    """

    epochs: int = 12
    qat_epochs: int = 6
    lr: float = 0.05
    qat_lr: float = 0.01
    batch: int = 128
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    optimiser: str = "sgd"
    fast: bool = False
    evaluate_every: int = 1
    nesterov: bool = True
    patience: int = 0
    cutout: int = 0
    mixup: float = 0.0
    qat_optimiser: str = "sgd"
    average: int = 0
    qat_average: bool = False


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(epochs=15, qat_epochs=5, batch=32, lr=0.05, qat_lr=0.01, shift=1),
    "mnist": Recipe(epochs=15, qat_epochs=8, batch=128, lr=0.05, qat_lr=0.02, shift=2),
    "cifar10": Recipe(
        epochs=24,
        qat_epochs=1,
        batch=128,
        lr=0.1,
        qat_lr=0.002,
        label_smoothing=0.1,
        shift=4,
        flip=True,
        optimiser="muon",
        fast=True,
        evaluate_every=4,
    ),
}


RECIPES |= {
    "cifar100": RECIPES["cifar10"],
    "tinyimagenet": RECIPES["cifar10"],
    "caltech101": replace(RECIPES["cifar10"], batch=64, shift=8),
}

# half of the channels and an early pool: it fits the training images sooner than VGG-9, and gains from cutout
RECIPES["resnet11h/cifar10"] = replace(RECIPES["cifar10"], cutout=8)

# 62,006 weights, which underfit: longer, less of everything that regularises, and float32, which its small layers like
RECIPES["lenet5/cifar10"] = Recipe(
    epochs=60, qat_epochs=6, lr=0.03, qat_lr=0.005, weight_decay=1e-4, shift=2, flip=True, evaluate_every=5
)

RECIPES["lenet5x4/cifar10"] = Recipe(
    epochs=60, qat_epochs=6, lr=0.03, qat_lr=0.005, weight_decay=5e-4, shift=4, flip=True, evaluate_every=5
)

# networks with batch norms need few epochs on MNIST
RECIPES |= {
    f"{network}/mnist": replace(RECIPES["cifar10"], epochs=5, shift=2, flip=False, evaluate_every=1)
    for network in ("vgg9", "resnet11h", "mobilenet20", "vgg16")
}


# transformers are dense layers throughout
RECIPES["vit6/cifar10"] = replace(
    RECIPES["cifar10"], qat_lr=0.01, optimiser="muon-dense", qat_optimiser="muon-dense", evaluate_every=4
)
RECIPES["vit6/mnist"] = replace(RECIPES["vit6/cifar10"], epochs=5, shift=2, flip=False, evaluate_every=1)
# on a quarter of the tokens an epoch takes half the time
RECIPES |= {
    "vit6w/cifar10": replace(RECIPES["vit6/cifar10"], epochs=48),
    "vit6w/mnist": RECIPES["vit6/mnist"],
}


# for an accelerator, on which epochs are seconds: more of them, in larger batches, and a long quantised phase
_LONG = replace(RECIPES["cifar10"], epochs=60, qat_epochs=20, batch=256, cutout=8, evaluate_every=10)
_LONG = replace(_LONG, qat_optimiser="muon", qat_lr=0.03)


def recipe_for(dataset: str, kind: str = "fast", network: str = "", levels: int = 127) -> Recipe:
    """How to train a network on a data set.

    ``fast``: float first; the entry in :data:`RECIPES` of the network on that data set, or else of the data set. Few
    levels are a larger step from the float network: where one quantised epoch is enough for 127, they get six, and the
    float phase's optimiser.
    ``paper``: as section 4.3 has it, quantisation-aware from scratch, with SGD of plain momentum 0.9, for as many
    epochs as the fast one takes in all, 30 at least; rates, batch and augmentation, which the paper does not give,
    are the fast one's, with a peak rate of 0.05.
    ``long``: for an accelerator: as the fast one for CIFAR-10 of many epochs, with cutout and a long quantised phase.

    >>> recipe_for("mnist").epochs, recipe_for("mnist", network="vgg9").epochs
    (15, 5)
    >>> recipe_for("cifar10", levels=8).qat_epochs
    6
    >>> recipe_for("mnist", "paper").epochs, recipe_for("mnist", "paper").nesterov
    (0, False)
    """
    name = Path(dataset).name
    recipe = RECIPES.get(f"{network}/{name}", RECIPES.get(name, Recipe()))
    if kind == "fast":
        few = levels < 32 and recipe.qat_epochs == 1
        return replace(recipe, qat_epochs=6, qat_lr=0.02, qat_optimiser=recipe.optimiser) if few else recipe
    if kind == "long":
        return replace(_LONG, flip=recipe.flip, shift=recipe.shift)
    if kind != "paper":
        raise ConversionError("--recipe", f"{kind!r}", "use fast, long or paper")
    epochs = max(30, recipe.epochs + recipe.qat_epochs)
    return replace(recipe, epochs=0, qat_epochs=epochs, qat_lr=0.05, optimiser="sgd", nesterov=False)
