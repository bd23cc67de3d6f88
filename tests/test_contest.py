"""Two networks measured side by side."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.comparing import contest
from phnnify.comparing.comparison import Comparison
from phnnify.comparing.probe import Footprint
from phnnify.errors import FileError, PhnnifyError, UsageError
from tests.networks import Branches, small

LABELS = torch.randint(0, 8, (40,), generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
QUICK: dict[str, Any] = {"batches": (2, 3), "seconds": 0.0, "threads": 1}


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded in processes of their own: `test_probe` does that."""
    monkeypatch.setattr(contest, "measure_footprint", lambda path, specs, **options: Footprint(0.5, 1000))


def compare(before: Any, after: Any, *engines: str, **options: Any) -> Comparison:
    return phnnify.compare(before, after, engines=engines, **{**QUICK, **options})


def test_sizes_answers_and_times_of_two_networks_in_memory() -> None:
    original = small()
    converted = phnnify.convert(original, 4, min_share=0).model
    found = compare(original, converted, "PyTorch", data=[(ROWS, LABELS)])
    assert found.params.before == sum(p.numel() for p in original.parameters())
    assert found.params.after == sum(p.numel() for p in converted.parameters())
    assert [(x.engine, x.batch) for x in found.latency] == [("PyTorch", 2), ("PyTorch", 3)]
    assert all(x.duel.before.median > 0 for x in found.latency)
    assert found.evaluation is not None
    assert found.evaluation.accuracy is not None
    assert found.evaluation.accuracy.teacher == (original(ROWS).argmax(1) == LABELS).double().mean()
    assert found.evaluation.accuracy.student == (converted(ROWS).argmax(1) == LABELS).double().mean()
    assert any("it is in no file" in note for note in found.notes)
    assert found.names == ("Small (1)", "Small (2)")


class Sleepy(nn.Module):
    """Computes again and again."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(256, 256), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


def test_what_computes_fifty_times_as_much_is_slower_in_every_engine() -> None:
    engines = "PyTorch", "ONNX Runtime"
    found = compare(Sleepy(2), Sleepy(100), *engines, inputs="1x256", batches=(64,))
    assert [x.engine for x in found.latency] == [*engines]
    assert all(x.duel.speedup.median < 0.5 for x in found.latency)


def test_onnx_files_are_compared_as_they_are_and_say_what_they_take(tmp_path: Path) -> None:
    for name, n in (("a.onnx", 2), ("b.onnx", 4)):
        phnnify.export_onnx(phnnify.convert(small(), n, min_share=0).model, tmp_path / name, "1x16")
    found = compare(
        tmp_path / "a.onnx", tmp_path / "b.onnx", "PyTorch", "ONNX Runtime", data=[(ROWS, LABELS)]
    )
    assert [x.engine for x in found.latency] == ["ONNX Runtime"] * 2
    runtime = found.engines[1]
    assert (runtime.bytes.before, runtime.bytes.after) == (found.bytes.before, found.bytes.after)
    assert runtime.load_seconds.before == 0.5
    assert runtime.peak_bytes.after == 1000
    assert found.notes == ("PyTorch: not measured: a.onnx is an ONNX file",)
    assert found.params.before is None
    want = phnnify.convert(small(), 4, min_share=0).model(ROWS)
    assert found.evaluation is not None
    assert found.evaluation.accuracy is not None
    assert found.evaluation.accuracy.student == (want.argmax(1) == LABELS).double().mean()
    assert compare(tmp_path / "a.onnx", tmp_path / "b.onnx", "ONNX Runtime").evaluation is None


def test_a_network_and_an_onnx_file_meet_in_onnx_runtime(tmp_path: Path) -> None:
    phnnify.export_onnx(small(), tmp_path / "a.onnx", "1x16")
    found = compare(small(), tmp_path / "a.onnx", "ONNX Runtime", data=[ROWS])
    assert found.evaluation is not None
    assert found.evaluation.agreement.relative_error < 1e-5
    assert len(found.latency) == 2


def test_what_cannot_be_exported_is_not_measured_there_and_the_reason_is_given() -> None:
    found = compare(Branches(), Branches(), "PyTorch", "ONNX Runtime", inputs="1x16")
    assert {x.engine for x in found.latency} == {"PyTorch"}
    assert any(note.startswith("ONNX Runtime: not measured: torch cannot export") for note in found.notes)
    assert [engine.reason is None for engine in found.engines] == [True, False]


def test_a_batch_size_that_fails_is_left_out_with_the_reason() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x).view(-1, 2, 4)
            return out

    found = compare(Pairs(), Pairs(), "PyTorch", inputs="2x16")
    assert [x.batch for x in found.latency] == [2]
    assert any(note.startswith("PyTorch: not measured at batch 3: RuntimeError") for note in found.notes)


def test_without_a_compiler_torch_compile_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, **options: Any) -> Any:
        def call(*args: Any) -> None:
            raise RuntimeError("no working C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    found = compare(small(), small(), "torch.compile", "PyTorch", inputs="1x16")
    assert {x.engine for x in found.latency} == {"PyTorch"}
    assert found.engines[1].reason == "at batch 2: RuntimeError: no working C++ compiler found"


@pytest.mark.slow
def test_torch_compile_is_measured_where_it_works() -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    found = compare(small(), small(), "torch.compile", inputs="1x16", batches=(2,))
    assert [(x.engine, x.batch) for x in found.latency] == [("torch.compile", 2)]


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    compare(small(), small(), "PyTorch", inputs="1x16", threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": ()}, "at least one is needed"),
        ({"batches": (0,)}, "all at least 1"),
        ({"threads": 0}, "the number of threads is 0"),
        ({"engines": ("abacus",)}, "there is no engine 'abacus'"),
        ({"inputs": None}, "what do the networks take"),
    ],
)
def test_what_cannot_mean_anything_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        phnnify.compare(small(), small(), **{"inputs": "1x16", "engines": ("PyTorch",), **QUICK, **options})


def test_files_that_are_no_networks_and_data_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(FileError):
        compare(tmp_path / "a.pt", small(), "PyTorch", inputs="1x16")
    with pytest.raises(PhnnifyError, match="fails on an example input"):
        compare(small(), small(), "PyTorch", data=[torch.zeros(3, 5)])


def test_answers_that_are_not_finite_are_told_by_the_names_of_the_networks() -> None:
    broken = small()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    found = compare(small(), broken, "PyTorch", data=[ROWS])
    assert any(note.startswith("40 of the 40 answers of Small (2) on the") for note in found.notes)
