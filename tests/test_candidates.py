"""Networks to compare."""

from __future__ import annotations

from pathlib import Path

import torch

import phnnify
from phnnify.comparing.candidates import read_candidate
from tests.networks import ARCH, Small, sequence, small


def test_each_kind_of_file_is_read_as_the_other_commands_read_it(tmp_path: Path) -> None:
    model = small()
    x = torch.randn(3, 16)
    converted = phnnify.convert(model, 4, min_share=0).model
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save(sequence(), tmp_path / "module.pt")
    phnnify.save(converted, tmp_path / "c.safetensors")
    phnnify.save(converted, tmp_path / "p.pt2", inputs="1x16")
    wanted = {"w.pt": model, "module.pt": sequence(), "c.safetensors": converted, "p.pt2": converted}
    for name, network in wanted.items():
        found = read_candidate(tmp_path / name, arch=ARCH)  # where it is not needed, it is not used
        torch.testing.assert_close(found.network(x), network(x))
        assert (found.name, found.bytes) == (name, (tmp_path / name).stat().st_size)
        assert not found.is_onnx
        assert not found.network.training
    assert found.inputs[0].shape[1:] == (16,)  # a program says what it takes
    assert read_candidate(tmp_path / "w.pt", arch=ARCH).parameters == sum(
        p.numel() for p in model.parameters()
    )


def test_an_onnx_file_is_a_candidate_whose_parameters_nobody_knows(tmp_path: Path) -> None:
    model = Small().eval()
    phnnify.export_onnx(model, tmp_path / "m.onnx", "1x16")
    found = read_candidate(tmp_path / "m.onnx", threads=1)
    x = torch.randn(3, 16)
    torch.testing.assert_close(found.network(x)[0], model(x), rtol=1e-4, atol=1e-5)
    assert found.is_onnx
    assert found.parameters is None
    assert found.bytes == (tmp_path / "m.onnx").stat().st_size
