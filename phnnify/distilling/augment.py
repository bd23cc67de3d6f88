"""Images seen a little differently each time: flipped, shifted, mixed.

Every change is drawn from a generator that the caller seeds: the same step sees the same images again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from phnnify.batches import Batch
from phnnify.errors import UsageError

_NAMES = ("flip", "crop", "mixup")


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images (batch, channels, height, width) of a batch; other inputs are left alone.

    Attributes:
        flip: Half of them are mirrored left to right.
        crop: Each is shifted by up to an eighth of its size along both axes; what comes in repeats the edge.
        mixup: All are mixed with others of the batch, λ·x + (1−λ)·x', λ uniform in [0, 1] (Zhang et al. 2017,
            arXiv 1710.09412). There is no true label then; the teacher says what a mixture is.
    """

    flip: bool = False
    crop: bool = False
    mixup: bool = False

    @classmethod
    def read(cls, text: str) -> Augmentation:
        """From a list such as 'flip,crop'; 'none' and nothing are none.

        Raises:
            UsageError: there is another word in it.
        """
        words = [word.strip() for word in text.split(",") if word.strip() and word.strip() != "none"]
        unknown = [word for word in words if word not in _NAMES]
        if unknown:
            raise UsageError(
                f"--augment {text!r}: there is no {unknown[0]!r}", hint=f"one or more of {', '.join(_NAMES)}"
            )
        return cls(**dict.fromkeys(words, True))

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return self.flip or self.crop or self.mixup

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch as it is seen this time."""
        if not self or not any(_is_image(x) for x in (*batch.args, *batch.kwargs.values())):
            return batch
        mirrored = torch.rand(batch.size, generator=generator) < 0.5 if self.flip else None
        shifts = torch.rand(2, batch.size, generator=generator) * 2 - 1 if self.crop else None
        order = torch.randperm(batch.size, generator=generator) if self.mixup else None
        shares = torch.rand(batch.size, generator=generator) if self.mixup else None

        def seen(x: Tensor) -> Tensor:
            if not _is_image(x):
                return x
            if mirrored is not None:
                x = torch.where(mirrored.view(-1, 1, 1, 1).to(x.device), x.flip(3), x)
            if shifts is not None:
                x = _shifted(x, shifts.to(x.device))
            if order is not None and shares is not None:
                share = shares.view(-1, 1, 1, 1).to(x)
                x = share * x + (1 - share) * x[order.to(x.device)]
            return x

        changed = Batch(
            tuple(map(seen, batch.args)), {k: seen(x) for k, x in batch.kwargs.items()}, batch.targets
        )
        return replace(changed, targets=None) if self.mixup else changed


def _is_image(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_floating_point() and x.shape[1] in (1, 3, 4) and min(x.shape[2:]) >= 8


def _shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """Each image moved by its shifts (2, batch), in [-1, 1] of an eighth of its height and width."""
    height, width = x.shape[2:]
    down, right = height // 8, width // 8
    padded = F.pad(x, (right, right, down, down), mode="replicate")
    top = ((shifts[0] + 1) * down).round().long()
    left = ((shifts[1] + 1) * right).round().long()
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    samples = torch.arange(len(x), device=x.device)
    return padded.permute(0, 2, 3, 1)[samples[:, None, None], rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
