"""Nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch

from phnnify.offline import offline


def test_torch_hub_gives_what_is_in_its_cache_and_fetches_nothing(tmp_path: Path) -> None:
    load = torch.hub.load_state_dict_from_url
    torch.save({"x": torch.ones(2)}, tmp_path / "here.pth")
    with offline():
        found = load("https://example.invalid/here.pth", model_dir=str(tmp_path), weights_only=True)
        with pytest.raises(OSError, match="not in the cache on this machine"):
            load("https://example.invalid/missing.pth", model_dir=str(tmp_path))
    assert torch.equal(found["x"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["here.pth"]


def test_the_hub_of_hugging_face_is_not_asked(tmp_path: Path) -> None:
    with offline(), pytest.raises(OSError, match="cache"):
        huggingface_hub.hf_hub_download("someone/net", "config.json", cache_dir=tmp_path)


def test_afterwards_everything_is_as_it_was() -> None:
    before = torch.hub.urlopen, huggingface_hub.constants.HF_HUB_OFFLINE  # type: ignore[attr-defined]
    with offline():
        assert huggingface_hub.constants.HF_HUB_OFFLINE
    assert (torch.hub.urlopen, huggingface_hub.constants.HF_HUB_OFFLINE) == before  # type: ignore[attr-defined]
