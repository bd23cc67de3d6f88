"""Images seen a little differently each time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from phnnify.batches import Batch
from phnnify.distilling.augment import Augmentation
from phnnify.errors import UsageError


def images() -> Tensor:
    return torch.arange(6 * 3 * 16 * 16, dtype=torch.float32).view(6, 3, 16, 16)


def seen(augmentation: Augmentation, x: Tensor, seed: int = 0) -> Tensor:
    return augmentation(Batch((x,)), torch.Generator().manual_seed(seed)).args[0]


def test_a_list_of_words_says_what_is_done() -> None:
    assert Augmentation.read("flip, crop") == Augmentation(flip=True, crop=True)
    assert Augmentation.read("mixup") == Augmentation(mixup=True)
    for text in ("", "none"):
        assert not Augmentation.read(text)
    with pytest.raises(UsageError, match="there is no 'flop'"):
        Augmentation.read("flip,flop")


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    x = images()
    y = seen(Augmentation(flip=True), x)
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(x, y, strict=True)]
    same = [torch.equal(b, a) for a, b in zip(x, y, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert any(mirrored)
    assert any(same)


def test_a_crop_shifts_each_image_by_at_most_an_eighth() -> None:
    x = images()
    y = seen(Augmentation(crop=True), x)
    shifts = []
    for image, moved in zip(x, y, strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(image[:, 2 + down : 14 + down, 2 + right : 14 + right], moved[:, 2:14, 2:14])
        ]
        assert len(found) == 1
        shifts += found
    assert len(set(shifts)) > 1


def test_mixup_gives_mixtures_of_two_images_and_no_label() -> None:
    x = images()
    batch = Augmentation(mixup=True)(Batch((x,), targets=torch.arange(6)), torch.Generator().manual_seed(0))
    assert batch.targets is None
    offset = (batch.args[0] - x)[:, 0, 0, 0]
    torch.testing.assert_close(batch.args[0], x + offset.view(-1, 1, 1, 1), rtol=1e-5, atol=1e-2)
    assert offset.abs().max() > 1


def test_the_same_seed_sees_the_same_and_another_does_not() -> None:
    every = Augmentation(True, True, True)
    torch.testing.assert_close(seen(every, images()), seen(every, images()), rtol=0, atol=0)
    assert not torch.equal(seen(every, images()), seen(every, images(), seed=1))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(4, 10),
        torch.randn(4, 16, 32, 32),
        torch.randint(0, 9, (4, 3, 16, 16)),
        torch.randn(4, 3, 4, 4),
    ],
    ids=["vectors", "feature maps", "whole numbers", "tiny"],
)
def test_what_is_no_image_is_left_alone(x: Tensor) -> None:
    batch = Batch((x,), targets=torch.arange(4))
    assert Augmentation(True, True, True)(batch, torch.Generator()) is batch
