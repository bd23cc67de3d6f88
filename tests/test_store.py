"""Writing converted networks and reading them back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import phnnify
from phnnify.algebras import Algebra
from phnnify.errors import FileError, ModelError, PlanError, UntrustedError, UsageError
from phnnify.folders import METADATA_KEY
from phnnify.layers import PHMLayer
from phnnify.measure import parameter_count
from phnnify.pipeline import Result, convert
from phnnify.plan_file import plan_json
from phnnify.store import ENDINGS, load, save
from tests.networks import Branches, Small, Tied, same_tensors, sequence, small
from tests.refusals import refused


def converted() -> Result:
    return convert(small(), 2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A converted Small."""
    result = converted()
    save(result.model, tmp_path / "net.safetensors", result.plan)
    return tmp_path / "net.safetensors"


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


# Round trips


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.pth", "net.bin"])
def test_a_saved_network_comes_back_with_the_same_outputs(name: str, tmp_path: Path) -> None:
    result = converted()
    save(result.model, tmp_path / name, result.plan)
    again = load(tmp_path / name, Small(), trust=True)
    x = torch.randn(5, 16)
    assert isinstance(again, Small)
    assert torch.equal(again(x), result.model.eval()(x))
    assert same_tensors(again.state_dict(), result.model.state_dict())


def test_saving_what_was_loaded_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save(load(saved, Small()), tmp_path / "again.safetensors", phnnify_plan(saved))
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def phnnify_plan(path: Path) -> Any:
    from phnnify.plan_file import parse_plan

    return parse_plan(metadata_of(path)[METADATA_KEY])


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_the_same_network_gives_the_same_bytes_under_any_name(ending: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("one", "another name", "deep/x"):
        result = converted()
        save(result.model, tmp_path / f"{name}{ending}", result.plan)
    contents = {path.read_bytes() for path in tmp_path.rglob(f"*{ending}")}
    assert len(contents) == 1


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys, phnnify; from tests.networks import small; made = phnnify.convert(small(), 2)\n"
        "for name in sys.argv[1:]: phnnify.save(made.model, name, made.plan)"
    )
    root = Path(phnnify.__file__).parents[1]
    running = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        names = [tmp_path / seed / f"net{seed}{ending}" for ending in (".safetensors", ".pt")]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", program, *map(str, names)]
        running.append(subprocess.Popen(command, env=environment, cwd=tmp_path))
    assert [process.wait() for process in running] == [0, 0]
    for ending in (".safetensors", ".pt"):
        one, other = (tmp_path / seed / f"net{seed}{ending}" for seed in "12")
        assert one.read_bytes() == other.read_bytes()


def test_the_metadata_holds_the_plan_with_its_reasons(saved: Path) -> None:
    result = converted()
    metadata = metadata_of(saved)
    assert list(metadata) == [METADATA_KEY]
    assert json.loads(metadata[METADATA_KEY]) == json.loads(plan_json(result.plan))
    assert phnnify_plan(saved) == result.plan


def test_a_kept_weights_reason_is_in_the_metadata(tmp_path: Path) -> None:
    result = convert(small(), 2, exclude=["head"])
    save(result.model, tmp_path / "net.safetensors", result.plan)
    layers = json.loads(metadata_of(tmp_path / "net.safetensors")[METADATA_KEY])["layers"]
    assert [layer.get("reason") for layer in layers] == [None, "excluded by the user"]
    assert type(load(tmp_path / "net.safetensors", Small()).get_submodule("head")) is nn.Linear


def test_without_a_plan_it_is_read_off_the_layers(tmp_path: Path) -> None:
    result = converted()
    save(result.model, tmp_path / "net.safetensors")
    assert same_tensors(load(tmp_path / "net.safetensors", Small()).state_dict(), result.model.state_dict())


def test_statistics_of_batch_norm_are_kept(saved: Path) -> None:
    norm = load(saved, Small()).get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm1d)
    assert same_tensors(norm.state_dict(), small().norm.state_dict())
    assert norm.running_mean is not None
    assert norm.running_mean.abs().min() > 0
    assert int(norm.num_batches_tracked or 0) == 1


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_what_is_loaded_is_in_eval_mode(ending: str, tmp_path: Path) -> None:
    model = convert(sequence().train(), 2).model
    assert model.training
    save(model, tmp_path / f"net{ending}")
    again = load(tmp_path / f"net{ending}", sequence().train())
    assert not any(module.training for module in again.modules())


def test_the_network_given_is_not_changed(saved: Path) -> None:
    model = Small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = load(saved, model)
    assert again is not model
    assert same_tensors(model.state_dict(), before)
    assert type(model.hidden) is nn.Linear
    assert all(module.training for module in model.modules())
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in again.state_dict().values()}


def test_the_network_saved_is_not_changed(tmp_path: Path) -> None:
    model = converted().model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save(model, tmp_path / "net.safetensors")
    save(model, tmp_path / "net.pt")
    assert model.training
    assert same_tensors(model.state_dict(), before)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_tie_is_saved_once_and_restored(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    model = Tied().eval()
    result = convert(model, 2)
    assert list(result.plan.conversions) == ["hidden"]
    save(result.model, path, result.plan)
    if ending == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            assert sorted(file.keys()) == ["hidden.A", "hidden.S", "hidden.bias", "table.weight"]
    again: Any = load(path, Tied(), trust=True)
    assert again.head.weight is again.table.weight
    tokens = torch.arange(12)
    assert torch.equal(again(tokens), result.model(tokens))


WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(16, 8), (3, 16)),
    "linear without bias": (lambda: nn.Linear(16, 8, bias=False), (3, 16)),
    "convolution": (lambda: nn.Conv2d(8, 16, 3, padding=1), (2, 8, 5, 5)),
    "transposed convolution": (lambda: nn.ConvTranspose1d(8, 16, 3), (2, 8, 5)),
}


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("case", WHOLE)
def test_a_network_that_is_one_layer_converts_and_comes_back(case: str, ending: str, tmp_path: Path) -> None:
    build, shape = WHOLE[case]
    result = convert(build(), 2)
    save(result.model, tmp_path / f"net{ending}", result.plan)
    again = load(tmp_path / f"net{ending}", build())
    x = torch.randn(shape)
    assert type(again).__name__.startswith("PHM")
    assert torch.equal(again(x), result.model.eval()(x))


@pytest.mark.parametrize("name", ["module", "_orig_mod", "weight"])
def test_names_that_mean_something_elsewhere_come_back(name: str, tmp_path: Path) -> None:
    result = convert(nn.ModuleDict({name: nn.Linear(16, 16)}), 2)
    save(result.model, tmp_path / "net.safetensors", result.plan)
    again = load(tmp_path / "net.safetensors", nn.ModuleDict({name: nn.Linear(16, 16)}))
    assert same_tensors(again.state_dict(), result.model.state_dict())


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_back(dtype: torch.dtype, ending: str, tmp_path: Path) -> None:
    result = convert(sequence().to(dtype), 2)
    save(result.model, tmp_path / f"net{ending}", result.plan)
    again = load(tmp_path / f"net{ending}", sequence().to(dtype))
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert same_tensors(again.state_dict(), result.model.state_dict())
    x = torch.randn(4, 16, dtype=dtype)
    assert torch.equal(again(x), result.model.eval()(x))


def test_half_precision_weights_take_the_precision_of_the_network_given(tmp_path: Path) -> None:
    result = convert(small().bfloat16(), 2)
    save(result.model, tmp_path / "net.safetensors", result.plan)
    again = load(tmp_path / "net.safetensors", Small())
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert same_tensors(again.state_dict(), result.model.float().state_dict())


class Buffers(nn.Module):
    """Holds buffers of unusual kinds."""

    def __init__(self, *buffers: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        for i, buffer in enumerate(buffers):
            self.register_buffer(f"b{i}", buffer)


def test_buffers_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    model = Buffers(table, table.view(2, 3), table.t(), table[:1], torch.zeros(0, 3))
    result = convert(model, 2)
    save(result.model, tmp_path / "net.safetensors", result.plan)
    again = load(tmp_path / "net.safetensors", model)
    assert same_tensors(again.state_dict(), result.model.state_dict())
    fresh = Buffers(*(buffer.clone() for buffer in model.buffers()))
    assert same_tensors(load(tmp_path / "net.safetensors", fresh).state_dict(), result.model.state_dict())


@pytest.mark.parametrize(
    "buffer",
    [torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.complex128), torch.zeros(2, device="meta")],
    ids=["sparse", "complex128", "meta"],
)
def test_a_tensor_that_safetensors_cannot_hold_is_an_error(buffer: Tensor, tmp_path: Path) -> None:
    model = convert(Buffers(buffer), 2).model
    error = refused(lambda: save(model, tmp_path / "net.safetensors"), FileError)
    assert "a tensor that safetensors cannot hold" in str(error)
    assert error.hint == "write a .pt file"
    assert list(tmp_path.iterdir()) == []


class Noted(nn.Module):
    """Has a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.state = state


def test_extra_state_cannot_go_into_safetensors_and_can_into_a_pickle(tmp_path: Path) -> None:
    model = convert(Noted(), 2).model
    error = refused(lambda: save(model, tmp_path / "net.safetensors"), FileError)
    assert str(error) == "_extra_state is not a tensor, which safetensors cannot hold"
    assert error.hint == "write a .pt file"
    save(model, tmp_path / "net.pt")
    assert isinstance(load(tmp_path / "net.pt", trust=True), Noted)


# Writing


@pytest.mark.parametrize("name", ["net.onnx", "net", "net.PT", "net.pt3", "net.safetensors.gz"])
def test_another_ending_is_wrong_usage(name: str, tmp_path: Path) -> None:
    error = refused(lambda: save(converted().model, tmp_path / name), UsageError)
    assert str(error) == f"cannot tell what to write to {tmp_path / name}"
    assert error.hint == f"endings: {', '.join(ENDINGS)}"
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_text(tmp_path: Path) -> None:
    save(converted().model, str(tmp_path / "net.safetensors"))
    assert isinstance(load(str(tmp_path / "net.safetensors"), Small()), Small)


def test_a_disk_that_is_full_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(module: nn.Module, file: Any) -> None:
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 27968 vs 27856")

    monkeypatch.setattr(torch, "save", full)
    error = refused(lambda: save(converted().model, tmp_path / "net.pt"), FileError)
    assert str(error) == f"cannot write {tmp_path / 'net.pt'}: No space left on device"
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_pickled_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    class Local(nn.Sequential):
        pass

    model = convert(Local(nn.Linear(16, 16)), 2).model
    error = refused(lambda: save(model, tmp_path / "net.pt"), FileError)
    assert "the network cannot be pickled: AttributeError" in str(error)
    assert error.hint is not None
    assert ".safetensors" in error.hint
    assert list(tmp_path.iterdir()) == []
    save(model, tmp_path / "net.safetensors")
    assert isinstance(load(tmp_path / "net.safetensors", Local(nn.Linear(16, 16))), Local)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_a_failed_write_keeps_the_old_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("old")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    error = refused(lambda: save(converted().model, tmp_path / name), FileError)
    assert "No space left on device" in str(error)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    error = refused(lambda: save(converted().model, tmp_path / "none" / "net.pt"), FileError)
    assert "there is no folder" in str(error)


# Loading what does not fit


def test_weights_without_their_network_say_how_to_give_it(saved: Path) -> None:
    error = refused(lambda: load(saved), FileError)
    assert "holds weights and a plan; the network's class is needed too" in str(error)
    assert error.hint == "phnnify.load(path, model=Net()), or --arch on the command line"


@pytest.mark.parametrize(
    "model",
    [sequence(), nn.Linear(16, 16), Branches(), nn.Identity(), nn.ModuleDict({"hidden": nn.Linear(16, 8)})],
    ids=lambda model: type(model).__name__,
)
def test_a_network_of_another_class_is_refused(model: nn.Module, saved: Path) -> None:
    error = refused(lambda: load(saved, model), ModelError)
    assert f"net.safetensors does not fit {type(model).__name__}" in str(error)
    assert error.hint == "give a network of the class that was converted"


def test_a_network_with_more_layers_is_refused(saved: Path) -> None:
    model = Small()
    model.more = nn.Linear(2, 2)
    error = refused(lambda: load(saved, model), ModelError)
    assert "2 missing (more.weight, more.bias)" in str(error)


def test_weights_that_were_not_converted_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(small().state_dict(), tmp_path / "net.safetensors")
    torch.save(small().state_dict(), tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        error = refused(lambda name=name: load(tmp_path / name, Small()), FileError)  # type: ignore[misc]
        assert str(error) == f"{tmp_path / name} holds weights that phnnify did not write"


def test_a_module_that_was_not_converted_is_refused(tmp_path: Path) -> None:
    torch.save(sequence(), tmp_path / "net.pt")
    error = refused(lambda: load(tmp_path / "net.pt"), FileError)
    assert str(error) == f"{tmp_path / 'net.pt'} holds a network that is not converted"


def test_a_converted_module_of_a_users_class_needs_trust(tmp_path: Path) -> None:
    save(converted().model, tmp_path / "net.pt")
    error = refused(lambda: load(tmp_path / "net.pt"), UntrustedError)
    assert "tests.networks.Small" in str(error)
    assert isinstance(load(tmp_path / "net.pt", trust=True), Small)


PLANS = {
    "nothing": "",
    "text": "convert everything",
    "half of it": '{"version": 1, "n": 2, "layers": [',
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "no version": "{}",
    "another version": '{"version": 2, "n": 2, "layers": []}',
    "no layers": '{"version": 1, "n": 2}',
    "layers as text": '{"version": 1, "n": 2, "layers": "hidden"}',
    "a layer as text": '{"version": 1, "n": 2, "layers": ["hidden"]}',
    "a layer without a shape": '{"version": 1, "n": 2, "layers": [{"name": "hidden", "kind": "Linear"}]}',
    "n as text": '{"version": 1, "n": "2", "layers": []}',
    "deep": "[" * 100_000,
    "deep JSON": '{"version": 1, "n": ' + "[" * 100_000,
    "control characters": "\x00\x1b[2J",
}
LAYER = '{{"version": 1, "n": 2, "layers": [{{"name": {}, "kind": "Linear", "shape": [16, 16], {}}}]}}'
for _order, _terms in (
    ("[2]", 2),
    ("[2, 0]", 2),
    ("[2, 2]", 0),
    ("[2, 2]", 5),
    ('"2"', 2),
    ("[2, 2]", "1.5"),
):
    PLANS[f"order {_order}, {_terms} terms"] = LAYER.format(
        '"hidden"', f'"order": {_order}, "terms": {_terms}'
    )
PLANS["terms missing"] = LAYER.format('"hidden"', '"order": [2, 2]')
PLANS["a name as a number"] = LAYER.format(3, '"order": [2, 2], "terms": 2')


@pytest.mark.parametrize("case", PLANS)
def test_a_damaged_plan_is_an_error(case: str, saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    safetensors.torch.save_file(tensors, saved, metadata={METADATA_KEY: PLANS[case]})
    refused(lambda: load(saved, Small()), PlanError)


FACTORS: dict[str, dict[str, Tensor | None]] = {
    "A missing": {"hidden.A": None},
    "S missing": {"hidden.S": None},
    "both missing": {"head.A": None, "head.S": None},
    "A with more terms": {"hidden.A": torch.zeros(3, 2, 2)},
    "A with more terms than blocks": {"hidden.A": torch.zeros(5, 2, 2)},
    "A without terms": {"hidden.A": torch.zeros(0, 2, 2)},
    "A of another order": {"hidden.A": torch.zeros(2, 4, 2)},
    "A without rows": {"hidden.A": torch.zeros(2, 0, 2)},
    "A flat": {"hidden.A": torch.zeros(8)},
    "A of four axes": {"hidden.A": torch.zeros(2, 2, 2, 1)},
    "A a number": {"hidden.A": torch.tensor(1.0)},
    "A of whole numbers": {"hidden.A": torch.zeros(2, 2, 2, dtype=torch.int32)},
    "S of another shape": {"hidden.S": torch.zeros(2, 4, 8)},
    "S with fewer terms": {"hidden.S": torch.zeros(1, 8, 8)},
    "S of four axes": {"hidden.S": torch.zeros(2, 8, 8, 1)},
    "S flat": {"hidden.S": torch.zeros(128)},
    "S empty": {"hidden.S": torch.zeros(2, 8, 0)},
    "S complex": {"hidden.S": torch.zeros(2, 8, 8, dtype=torch.complex64)},
    "bias of another shape": {"hidden.bias": torch.zeros(8)},
    "bias missing": {"hidden.bias": None},
    "statistics missing": {"norm.running_mean": None},
    "one tensor more": {"more": torch.zeros(1)},
    "all missing": dict.fromkeys(
        ["hidden.A", "hidden.S", "hidden.bias", "head.A", "head.S", "head.bias", "norm.weight", "norm.bias"]
    ),
}


@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")  # then it is refused
@pytest.mark.parametrize("case", FACTORS)
def test_damaged_tensors_are_an_error_that_names_the_file(case: str, saved: Path) -> None:
    tensors, metadata = safetensors.torch.load_file(saved), metadata_of(saved)
    for name, value in FACTORS[case].items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    safetensors.torch.save_file(tensors, saved, metadata=metadata)
    with pytest.raises((FileError, ModelError), match=r"net\.safetensors"):
        load(saved, Small())


def edited(plan: dict[str, Any], layer: int, **changes: Any) -> str:
    plan["layers"][layer].update(changes)
    return json.dumps(plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "hidde"},
        {"name": "norm"},
        {"name": ""},
        {"name": "weight"},
        {"name": "hidden.weight"},
        {"order": [4, 4], "terms": 4},
        {"order": [16, 16], "terms": 1},
        {"order": [3, 3], "terms": 2},
        {"order": [2, 2], "terms": 1},
        {"order": [2**40, 2**40], "terms": 2**62},
    ],
    ids=str,
)
def test_a_plan_that_does_not_match_its_tensors_is_an_error(changes: dict[str, Any], saved: Path) -> None:
    tensors, plan = safetensors.torch.load_file(saved), json.loads(metadata_of(saved)[METADATA_KEY])
    safetensors.torch.save_file(tensors, saved, metadata={METADATA_KEY: edited(plan, 0, **changes)})
    with pytest.raises((FileError, ModelError), match=r"net\.safetensors"):
        load(saved, Small())


def test_a_plan_that_keeps_what_was_converted_is_an_error(saved: Path) -> None:
    tensors, plan = safetensors.torch.load_file(saved), json.loads(metadata_of(saved)[METADATA_KEY])
    del plan["layers"][0]["order"]
    safetensors.torch.save_file(tensors, saved, metadata={METADATA_KEY: json.dumps(plan)})
    error = refused(lambda: load(saved, Small()), ModelError)
    assert "1 missing (hidden.weight); 2 unexpected (hidden.A, hidden.S)" in str(error)


DUAL = Algebra.of("dual", [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]])


@pytest.mark.parametrize("with_plan", [True, False])
@pytest.mark.parametrize("algebra", ["complex", DUAL, "shared"], ids=["complex", "own", "shared"])
def test_given_algebras_come_back_as_they_were(
    algebra: str | Algebra, with_plan: bool, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"share_algebra": True} if algebra == "shared" else {"algebra": algebra}
    result = convert(small(), 2, **how)
    save(result.model, tmp_path / "net.safetensors", result.plan if with_plan else None)
    back = load(tmp_path / "net.safetensors", Small())
    assert same_tensors(result.model.state_dict(), back.state_dict())
    hidden, head = (layer for layer in back.modules() if isinstance(layer, PHMLayer))
    assert (hidden.A is head.A) == (algebra == "shared")
    assert hidden.has_fixed_algebra == head.has_fixed_algebra == (algebra != "shared")
    assert parameter_count(back) == parameter_count(result.model) == result.report.params.after
    save(back, tmp_path / "again.safetensors", result.plan if with_plan else None)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_a_shared_algebra_is_found_under_the_first_name_of_the_file_not_of_the_plan(tmp_path: Path) -> None:
    class Backwards(nn.Module):
        """Runs its layers in another order than it has them."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(16, 8), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x))
            return out

    result = convert(Backwards(), 2, share_algebra=True)
    assert list(result.plan.conversions) == ["first", "last"]
    save(result.model, tmp_path / "net.safetensors", result.plan)
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert [name for name in file.keys() if name.endswith("A")] == ["last.A"]  # noqa: SIM118
    assert same_tensors(
        result.model.state_dict(), load(tmp_path / "net.safetensors", Backwards()).state_dict()
    )
