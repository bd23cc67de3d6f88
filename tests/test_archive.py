"""What a model file holds, read without running anything inside it."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from phnnify import layers
from phnnify.archive import Content, read_content
from phnnify.errors import FileError, PhnnifyError, UntrustedError
from phnnify.foreign import SAFE_CLASSES, foreign_globals
from tests.networks import Small, same_tensors, sequence, small
from tests.pickled_calls import DISGUISES, FORMATS, PLACES, Call, stored

NAMES = ("net.pt", "net.pth", "net.bin", "net.safetensors")


def tensors_of(content: Content) -> dict[str, Tensor]:
    assert content.module is None
    return content.tensors


def refused(path: Path, kind: type[PhnnifyError] = FileError, *, trust: bool = False) -> PhnnifyError:
    with pytest.raises(PhnnifyError) as caught:
        read_content(path, trust=trust)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    return caught.value


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The value of weights_only of every torch.load."""
    calls: list[bool] = []
    load = torch.load

    def recorded(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["weights_only"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", recorded)
    return calls


# Weights


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMATS)
def test_a_state_dict_is_read_whatever_its_name_and_format(form: str, name: str, tmp_path: Path) -> None:
    state = small().state_dict()
    assert same_tensors(tensors_of(read_content(stored(state, tmp_path / name, form))), state)


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_are_told_by_their_contents(name: str, tmp_path: Path) -> None:
    state = small().state_dict()
    safetensors.torch.save_file(state, tmp_path / name, metadata={"made": "here"})
    content = read_content(tmp_path / name)
    assert same_tensors(tensors_of(content), state)
    assert content.metadata == {"made": "here"}


def test_safetensors_without_metadata_have_none(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "net.safetensors")
    assert read_content(tmp_path / "net.safetensors").metadata == {}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_training_scripts_checkpoint_is_unwrapped(form: str, key: str, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(small().parameters()).state_dict()
    checkpoint = {"epoch": 3, "optimizer": optimizer, key: small().state_dict(), "best": 0.5}
    content = read_content(stored(checkpoint, tmp_path / "net.pt", form))
    assert same_tensors(tensors_of(content), small().state_dict())


def test_wrappings_are_looked_through_twice(tmp_path: Path) -> None:
    path = stored({"state_dict": {"model": small().state_dict()}}, tmp_path / "net.pt")
    assert same_tensors(tensors_of(read_content(path)), small().state_dict())


def test_a_wrapped_module_is_found(tmp_path: Path) -> None:
    path = stored({"model": sequence(), "epoch": 1}, tmp_path / "net.pt")
    assert isinstance(read_content(path).module, nn.Sequential)


@pytest.mark.parametrize("protocol", [2, 3])
def test_newer_pickle_protocols_are_read(protocol: int, tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "net.pt", pickle_protocol=protocol)
    assert same_tensors(tensors_of(read_content(tmp_path / "net.pt")), small().state_dict())


# Modules of torch's own classes

SPECIAL: dict[str, Callable[[], nn.Module]] = {
    "sequential": lambda: nn.Sequential(OrderedDict(a=nn.Linear(4, 4), b=nn.ReLU())),
    "module list": lambda: nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Tanh())]),
    "module dict": lambda: nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.ModuleList()}),
    "parameter list": lambda: nn.ParameterList([torch.zeros(2), torch.ones(3)]),
    "parameter dict": lambda: nn.ParameterDict({"a": torch.zeros(2)}),
    "grouped convolution": lambda: nn.Conv2d(4, 8, (3, 1), 2, "valid", groups=2, padding_mode="circular"),
    "transposed convolution": lambda: nn.ConvTranspose3d(4, 8, 3, 2, 1, output_padding=1, dilation=2),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "lstm": lambda: nn.LSTM(4, 6, 2, bidirectional=True, dropout=0.1, proj_size=3),
    "gru": lambda: nn.GRU(4, 6, 2, batch_first=True),
    "rnn": lambda: nn.RNN(4, 6, nonlinearity="relu", bias=False),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True, batch_first=True),
    "encoder layer, relu": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "encoder layer, gelu": lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu"),
    "encoder layer, module": lambda: nn.TransformerEncoderLayer(8, 2, 16, activation=nn.SiLU()),
    "decoder layer": lambda: nn.TransformerDecoderLayer(8, 2, 16, norm_first=True),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, nn.LayerNorm(8)
    ),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    "embedding bag": lambda: nn.EmbeddingBag(10, 4, padding_idx=0, mode="max"),
    "adaptive softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(32, 20, [4, 10]),
    "frozen layer": lambda: nn.Linear(4, 4).requires_grad_(False),
    "double layer": lambda: nn.Linear(4, 4).double(),
    "half layer": lambda: nn.Linear(4, 4).bfloat16(),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_a_pickled_module_of_torchs_own_classes_needs_no_trust(
    case: str, tmp_path: Path, loads: list[bool]
) -> None:
    model = SPECIAL[case]().eval()
    read = read_content(stored(model, tmp_path / "net.pt")).module
    assert read is not None
    assert repr(read) == repr(model)
    assert same_tensors(read.state_dict(), model.state_dict())
    assert [m.training for m in read.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in read.parameters()] == [p.requires_grad for p in model.parameters()]
    assert loads == [True]


def constructed() -> Iterator[nn.Module]:
    """One module of every class in torch.nn that a few plain arguments construct without a warning."""
    for name in sorted(vars(nn)):
        kind = getattr(nn, name)
        usable = isinstance(kind, type) and issubclass(kind, nn.Module)
        if not usable or kind not in SAFE_CLASSES or name in ("Container", "Transformer"):
            continue
        for arguments in ((), (4,), (4, 4), (4, 4, 2), (4, 2, 4, 4), ([nn.Tanh()],), ((4, 4), 2)):
            try:
                yield kind(*arguments)
            except (TypeError, ValueError):
                continue
            break


def test_every_layer_and_activation_of_torch_needs_no_trust(tmp_path: Path) -> None:
    kinds = set()
    for model in constructed():
        read = read_content(stored(model, tmp_path / "net.pt")).module
        assert type(read) is type(model)
        assert repr(read) == repr(model)
        kinds.add(type(model))
    assert {getattr(nn, name) for name in nn.modules.activation.__all__} - kinds <= {nn.MultiheadAttention}
    assert len(kinds) > 110


def test_the_outputs_of_a_module_read_are_the_same(tmp_path: Path) -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 4)).eval()
    read = read_content(stored(model, tmp_path / "net.pt")).module
    x = torch.randn(3, 5, 8)
    assert read is not None
    assert torch.equal(read(x), model(x))


PHM_LAYERS: tuple[nn.Module, ...] = (
    layers.PHMLinear(8, 8, n=2),
    layers.PHMConv1d(8, 8, 3, n=4),
    layers.PHMConv2d(8, 8, 3, padding="same", n=4),
    layers.PHMConv3d(4, 4, 2, n=2),
    layers.PHMConvTranspose1d(8, 8, 3, n=4),
    layers.PHMConvTranspose2d(8, 8, 3, output_padding=1, stride=2, n=2),
    layers.PHMConvTranspose3d(4, 4, 2, n=2),
    layers.PHMEmbedding(8, 8, padding_idx=1, n=2),
)


@pytest.mark.parametrize("layer", PHM_LAYERS, ids=lambda layer: type(layer).__name__)
def test_our_own_layers_inside_torchs_need_no_trust(layer: nn.Module, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Identity(), layer).eval()
    read = read_content(stored(model, tmp_path / "net.pt")).module
    assert repr(read) == repr(model)


def test_all_our_layers_are_in_that_table() -> None:
    assert {type(layer).__name__ for layer in PHM_LAYERS} == set(layers.__all__) - {"PHMLayer"}


def test_a_method_replaced_by_an_attribute_is_refused(tmp_path: Path) -> None:
    model: Any = sequence()
    model[0].forward = nn.Linear
    error = refused(stored(model, tmp_path / "net.pt"))
    assert "methods were replaced: Linear.forward" in str(error)


def test_a_method_replaced_deep_inside_is_refused(tmp_path: Path) -> None:
    model: Any = nn.TransformerEncoderLayer(8, 2, 16)
    model.self_attn.out_proj.extra_repr = torch.Size
    error = refused(stored(nn.Sequential(model), tmp_path / "net.pt"))
    assert "NonDynamicallyQuantizableLinear.extra_repr" in str(error)


@pytest.mark.parametrize(
    "attribute", [b"training", b"_parameters", b"_modules", b"_flat_weights_names", b"groups"]
)
def test_a_module_that_lacks_an_attribute_is_refused(attribute: bytes, tmp_path: Path) -> None:
    path = stored(nn.Sequential(nn.LSTM(4, 4), nn.Conv2d(4, 4, 3)), tmp_path / "net.pt")
    path = rezipped(path, lambda name, data: data.replace(attribute, attribute.upper()))
    assert "damaged module" in str(refused(path))


@pytest.mark.parametrize(
    ("attribute", "value"), [("training", "yes"), ("_modules", {"0": 3}), ("_buffers", 3)]
)
def test_a_module_with_a_wrong_attribute_is_refused(attribute: str, value: Any, tmp_path: Path) -> None:
    model = sequence()
    vars(model)[attribute] = value
    assert "damaged module" in str(refused(stored(model, tmp_path / "net.pt")))


# Files that need trust


def test_a_user_class_needs_trust_and_the_message_names_it(tmp_path: Path, loads: list[bool]) -> None:
    error = refused(stored(small(), tmp_path / "net.pt"), UntrustedError)
    assert "needs code that is not known to be safe: tests.networks.Small" in str(error)
    assert error.hint == "save its state_dict and give --arch; or, if you trust the file's origin, --trust"
    assert loads == [True]


@pytest.mark.parametrize("form", FORMATS)
def test_a_user_class_is_read_with_trust(form: str, tmp_path: Path) -> None:
    content = read_content(stored(small(), tmp_path / "net.pt", form), trust=True)
    assert isinstance(content.module, Small)
    assert same_tensors(content.module.state_dict(), small().state_dict())


def test_trust_is_not_used_where_it_is_not_needed(tmp_path: Path, loads: list[bool]) -> None:
    read_content(stored(sequence(), tmp_path / "net.pt"), trust=True)
    read_content(stored(small().state_dict(), tmp_path / "net.pt"), trust=True)
    assert loads == [True, True]


def test_an_old_pickled_module_is_refused_without_trust_and_read_with_it(
    tmp_path: Path, loads: list[bool]
) -> None:
    path = stored(sequence(), tmp_path / "net.pt", "legacy")
    error = refused(path, UntrustedError)
    assert "cannot read safely: Only persistent_load of storage is allowed" in str(error)
    assert loads == [True]
    assert repr(read_content(path, trust=True).module) == repr(sequence())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_protocol_beyond_the_safe_unpickler_needs_trust(
    protocol: int, form: str, tmp_path: Path
) -> None:
    path, state = tmp_path / "net.pt", small().state_dict()
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=FORMATS[form])
    assert "Unsupported operand" in str(refused(path, UntrustedError))
    assert foreign_globals(path) == []
    assert same_tensors(tensors_of(read_content(path, trust=True)), state)


def test_the_environment_cannot_switch_the_safe_unpickler_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refused(stored(small(), tmp_path / "net.pt"), UntrustedError)


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a pickled network whose class is in a file beside it, and in no imported module."""
    folder = tmp_path / "author"
    folder.mkdir()
    (folder / "authors_net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(4, 4))\n"
    )
    with monkeypatch.context() as context:
        context.syspath_prepend(folder)
        torch.save(importlib.import_module("authors_net").Net(), folder / "net.pt")
    del sys.modules["authors_net"]
    yield folder
    sys.modules.pop("authors_net", None)


def test_numbers_that_look_like_a_name_are_not_taken_for_one(tmp_path: Path) -> None:
    """After the pickles of an old file come 8 bytes of length, here the opcode of a name, and raw numbers."""
    numbers = torch.frombuffer(bytearray(b"os\nsystem\n".ljust(ord("c"))), dtype=torch.uint8)
    path = stored({"a": numbers}, tmp_path / "net.pt", "legacy")
    path.write_bytes(path.read_bytes()[:-3])
    assert "is a damaged torch file" in str(refused(path))


def test_a_class_that_cannot_be_imported_is_named_with_a_hint(author: Path) -> None:
    error = refused(author / "net.pt", trust=True)
    assert "cannot be unpickled: ModuleNotFoundError: No module named 'authors_net'" in str(error)
    assert error.hint is not None
    assert "PYTHONPATH" in error.hint


def test_a_class_in_the_current_folder_is_found_with_trust(
    author: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(author)
    before = list(sys.path)
    assert type(read_content(Path("net.pt"), trust=True).module).__name__ == "Net"
    assert sys.path == before


def test_a_class_without_its_module_is_not_imported_without_trust(
    author: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(author)
    assert "authors_net.Net" in str(refused(Path("net.pt"), UntrustedError))
    assert "authors_net" not in sys.modules


class Quits(nn.Module):
    """Ends the program when it is read."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise SystemExit(3)


def test_a_trusted_file_that_quits_is_an_error(tmp_path: Path) -> None:
    assert "cannot be unpickled: SystemExit: 3" in str(
        refused(stored(Quits(), tmp_path / "x.pt"), trust=True)
    )


# Files that would run something


def never_runs(path: Path, canary: Path, name: str | None) -> None:
    """Assert that a file is refused for what it names, and that it ran nothing."""
    error = refused(path, UntrustedError)
    if name:
        assert name in str(error)
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    assert error.hint is not None
    assert "--trust" in error.hint


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_code_in_a_file_never_runs_and_is_named(
    disguise: str, form: str, tmp_path: Path, loads: list[bool]
) -> None:
    canary = tmp_path / "canary"
    call, name = DISGUISES[disguise]
    never_runs(stored(call(canary), tmp_path / "net.pt", form), canary, name)
    assert loads == [True]


@pytest.mark.parametrize("name", ["net.pt", "net.bin", "net.safetensors"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_code_never_runs_wherever_it_hides(
    place: str, form: str, name: str, tmp_path: Path, loads: list[bool]
) -> None:
    canary = tmp_path / "canary"
    path = stored(PLACES[place](Call(os.mkdir, str(canary))), tmp_path / name, form)
    never_runs(path, canary, "posix.mkdir")
    assert all(loads)


@pytest.mark.parametrize("place", PLACES)
def test_these_files_would_run_their_code(place: str, tmp_path: Path) -> None:
    """The tests above would pass if the files were harmless."""
    path = stored(PLACES[place](Call(os.mkdir, str(tmp_path / "canary"))), tmp_path / "net.pt")
    torch.load(path, weights_only=False)
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_plain_pickle_never_runs(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(pickle.dumps({"weight": Call(os.mkdir, str(tmp_path / "canary"))}, protocol))
    never_runs(path, tmp_path / "canary", "posix.mkdir")


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_ancient_pickle_is_no_model_file(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "canary")), protocol))
    assert "is no model file" in str(refused(tmp_path / "net.pt"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_code_in_newer_pickle_protocols_never_runs(place: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(PLACES[place](Call(os.mkdir, str(tmp_path / "canary"))), path, pickle_protocol=protocol)
    never_runs(path, tmp_path / "canary", "posix.mkdir")


def test_a_tar_file_in_disguise_never_runs(tmp_path: Path, loads: list[bool]) -> None:
    """torch reads tar files of old; this one begins as a pickle does."""
    payload = tmp_path / "payload"
    payload.write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "canary")), 2))
    with tarfile.open(tmp_path / "net.pt", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("\x80\x02", "storages", "tensors", "pickle"):
            archive.add(payload, arcname=name)
    assert (tmp_path / "net.pt").read_bytes().startswith(b"\x80")
    assert "damaged torch file" in str(refused(tmp_path / "net.pt"))
    assert not (tmp_path / "canary").exists()
    assert loads == [True]


def test_an_entry_hidden_behind_another_of_the_same_name_never_runs(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    stored(sequence().state_dict(), good)
    stored(Call(os.mkdir, str(tmp_path / "canary")), bad)
    with zipfile.ZipFile(good) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    with zipfile.ZipFile(bad) as archive:
        hostile = archive.read("bad/data.pkl")
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(entry, hostile)
    with pytest.raises(FileError):
        read_content(good)
    assert not (tmp_path / "canary").exists()


def test_torchs_advice_to_load_unsafely_is_not_handed_on(tmp_path: Path) -> None:
    state = small().state_dict()
    path = stored(state, tmp_path / "net.pt", "legacy")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_vX"))
    unusual = tmp_path / "new.pt"
    torch.save(state, unusual, pickle_protocol=4)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: data.index(b"_rebuild_tensor_v2") + 4])
    for error in (refused(path, UntrustedError), refused(unusual, UntrustedError), refused(cut)):
        assert "weights_only" not in str(error)
        assert "add_safe_globals" not in str(error)


# Files of other kinds


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "there is no file" in str(refused(tmp_path / "net.pt"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    assert "is empty" in str(refused(tmp_path / "net.pt"))


def test_a_folder_is_refused_with_a_hint(tmp_path: Path) -> None:
    assert refused(tmp_path).hint == "give the weights file inside it"


def test_a_name_that_the_system_refuses_is_a_file_error(tmp_path: Path) -> None:
    assert "File name too long" in str(refused(tmp_path / ("a" * 300)))


@pytest.mark.parametrize(
    "content", [b"hello", b"\x89PNG\r\n\x1a\n0000", b"\x7fELF", b"{}", b"PK", b"\x00" * 64]
)
def test_a_file_that_is_no_model_is_refused_with_what_it_begins_with(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    error = refused(tmp_path / "net.pt")
    assert f"is no model file: it begins with {content[:8]!r}" in str(error)
    assert error.hint == "give a .safetensors file, or a .pt, .pth or .bin file written by torch.save"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # TorchScript is what is tested
def test_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(sequence()), tmp_path / "net.pt")
    error = refused(tmp_path / "net.pt")
    assert "is TorchScript" in str(error)
    assert error.hint is not None
    assert "--arch" in error.hint


def test_an_exported_program_is_refused_with_what_to_do(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(4, 4), (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "net.pt2")
    error = refused(tmp_path / "net.pt2")
    assert "torch.export program (.pt2)" in str(error)
    assert error.hint is not None


def test_a_zip_archive_of_another_kind_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("a/one.txt", "1")
        archive.writestr("two.txt", "2")
    assert "torch.save did not write: it holds one.txt, two.txt" in str(refused(tmp_path / "net.pt"))


def rezipped(path: Path, change: Callable[[str, bytes], bytes | None], method: int = 0) -> Path:
    """A copy with new checksums, whose entries went through `change`; None drops one."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.parent / f"new-{path.name}", "w", method) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return path.parent / f"new-{path.name}"


@pytest.mark.parametrize("size", [2, 1000])
def test_a_compressed_torch_file_is_refused(size: int, tmp_path: Path) -> None:
    zeros = {"a": torch.zeros(size), "b": torch.zeros(size)}
    path = rezipped(stored(zeros, tmp_path / "net.pt"), lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert "is compressed, which torch.save never does" in str(refused(path))


def test_a_wrong_checksum_is_found_where_torch_finds_none(tmp_path: Path) -> None:
    path = stored({"a": torch.full((64,), 0.5)}, tmp_path / "net.pt")
    data = path.read_bytes()
    spoilt = data.replace(torch.full((64,), 0.5).numpy().tobytes(), torch.full((64,), 0.75).numpy().tobytes())
    assert spoilt != data
    path.write_bytes(spoilt)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.full((64,), 0.75))
    assert "the checksum of its entry net/data/0 is wrong" in str(refused(path))


@pytest.mark.parametrize("method", [8, 9, 12, 14, 99])
def test_an_entry_with_a_false_compression_method_is_refused(method: int, tmp_path: Path) -> None:
    path = stored(small().state_dict(), tmp_path / "net.pt")
    data = bytearray(path.read_bytes())
    for start, field in ((data.find(b"PK\x01\x02"), 10), (0, 8)):
        data[start + field] = method
    path.write_bytes(data)
    assert "is compressed" in str(refused(path))


@pytest.mark.parametrize("entry", ["data/0", "data/4", "byteorder"])
def test_a_torch_file_without_one_of_its_entries_is_damaged(entry: str, tmp_path: Path) -> None:
    path = stored(small().state_dict(), tmp_path / "net.pt")
    path = rezipped(path, lambda name, data: b"huge" if name.endswith(entry) else data)
    assert "damaged torch file" in str(refused(path))


def test_a_torch_file_without_its_pickle_is_no_torch_file(tmp_path: Path) -> None:
    path = stored(small().state_dict(), tmp_path / "net.pt")
    path = rezipped(path, lambda name, data: None if name.endswith("data.pkl") else data)
    assert "torch.save did not write" in str(refused(path))


@pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_damaged(share: float, form: str, tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    if form == "safetensors":
        safetensors.torch.save_file(small().state_dict(), path)
    else:
        stored(small().state_dict(), path, form)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "is a damaged" in str(refused(path))


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_not_said_to_need_trust(form: str, tmp_path: Path) -> None:
    path = stored({"a": {1, 2}, "b": torch.zeros(9)}, tmp_path / "net.pt", form)  # sets have an old name
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged torch file" in str(refused(path, trust=True))


# Contents of other kinds


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([torch.zeros(2)], "holds a list, not a network or its weights"),
        (torch.zeros(2), "holds a Tensor, not a network or its weights"),
        (None, "holds a NoneType"),
        ({}, "holds a dict without weights (keys: none)"),
        ({"epoch": 3, "lr": 0.1}, "holds a dict without weights (keys: 'epoch', 'lr')"),
        ({"state_dict": {"epoch": 1}}, "holds a dict without weights (keys: 'epoch')"),
    ],
)
def test_a_file_that_holds_no_network_is_refused_with_what_it_holds(
    value: Any, found: str, tmp_path: Path
) -> None:
    assert found in str(refused(stored(value, tmp_path / "net.pt")))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_dict_that_holds_itself_is_refused(length: int, tmp_path: Path) -> None:
    ring: list[dict[str, Any]] = [{} for _ in range(length)]
    for one, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        one["state_dict"] = following
    assert "a dict without weights" in str(refused(stored(ring[0], tmp_path / "net.pt")))


def test_reading_tells_nothing_of_torchs_own_warnings(tmp_path: Path) -> None:
    """Warnings are errors here: a sparse tensor or a new pickle protocol make torch warn."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "net.pt", pickle_protocol=3)
    read_content(tmp_path / "net.pt")


def test_the_safe_classes_are_not_left_allowed(tmp_path: Path) -> None:
    read_content(stored(sequence(), tmp_path / "net.pt"))
    assert nn.Sequential not in torch.serialization.get_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "net.pt", weights_only=True)
