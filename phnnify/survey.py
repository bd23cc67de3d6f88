"""One pass over the original that measures, for every weight, what its forms would lose.

The original runs once, in `lockstep`, and stops in front of each chosen layer; there the statistics of what
flows in are gathered, searched (`search`), and dropped, so that memory holds one layer's at a time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from phnnify.batches import Batch
from phnnify.calibrate import Sums, check_finite, refusal
from phnnify.errors import ModelError
from phnnify.fit import regularised
from phnnify.inputs import Example
from phnnify.lockstep import Runs
from phnnify.measure import evaluation_copy, submodule
from phnnify.rewrite import dense_weights
from phnnify.search import Form, Search
from phnnify.watching import Progress

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Look = Callable[[str, Search], Sequence[Form]]
"""What to look for in one weight's search, by name."""


def survey(
    teacher: nn.Module,
    names: Iterable[str],
    batches: Sequence[Batch],
    look: Look,
    progress: Progress | None = None,
) -> dict[str, tuple[Form, ...]]:
    """What `look` finds for each weight on the inputs that the original itself sees.

    Args:
        teacher: The original.
        names: The layers to look at.
        batches: Calibration inputs. All their live activations are held at once.
        look: Given a weight's name and search, gives its forms.
        progress: Told before each layer, and at the end.

    Returns:
        By name; a layer whose inputs cannot be gathered, or never vary, is left out.

    Raises:
        ModelError: the network fails on the inputs, or takes different ways for different ones.
    """
    if not batches:
        raise ModelError("there are no calibration inputs")
    examples = [Example(batch.args, batch.kwargs) for batch in batches]
    teacher = evaluation_copy(teacher)
    layers = {name: submodule(teacher, name) for name in names}
    layers = {name: layer for name, layer in layers.items() if not refusal(layer)}
    weights = dense_weights(teacher, layers)
    absorbed, calls = absorbed_means(teacher, layers, examples[0])
    total = sum(weight.numel() for weight in weights.values())
    done, found = 0, {}
    sums: dict[str, Sums] = {}
    with Runs(teacher, layers, examples) as runs:
        while stops := runs.advance():
            name = stops[0].name
            layer = layers[name]
            if progress:
                progress(done, total, name)
            sums.setdefault(name, Sums(layer)).add([(stop.x, stop.x) for stop in stops])
            calls[name] -= 1
            if calls[name]:
                continue
            statistics = sums.pop(name).statistics(centered=name in absorbed or layer.bias is not None)
            check_finite(name, layer, statistics)
            problem = regularised(weights[name], statistics)
            if problem is not None:
                found[name] = tuple(look(name, Search(problem)))
            done += weights[name].numel()
    if progress:
        progress(total, total, "")
    return found


def absorbed_means(
    model: nn.Module, layers: Iterable[str], example: Example
) -> tuple[set[str], Counter[str]]:
    """Which layers' means do not matter, and how often each runs.

    A BatchNorm of a layer's width that runs next takes out any constant that the layer adds.
    """
    layers = set(layers)
    norms = [name for name, module in model.named_modules() if type(module) in NORMS]
    order: list[str] = []
    with Runs(model, [*layers, *norms], [example]) as runs:
        while stops := runs.advance():
            order.append(stops[0].name)
    found = set()
    for name, following in itertools.pairwise(order):
        layer, norm = submodule(model, name), submodule(model, following)
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if name in layers and isinstance(norm, NORMS) and norm.num_features == width:
            found.add(name)
    return found, Counter(name for name in order if name in layers)
