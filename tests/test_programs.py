"""torch.export programs: read safely, converted, and written for plain torch."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.errors import ExportError, FileError, UntrustedError, UsageError
from phnnify.inputs import InputSpec, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import copied
from phnnify.programs import read_program, write_program
from phnnify.sources import read_network
from tests.graph_networks import Branching, Tied


class Net(nn.Module):
    """Every operator that becomes a layer, with unusual arguments; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.same = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.a(x)).relu()
        z = self.same(self.up(self.b(y).relu()) + y)
        return self.head(self.head(z.mean((2, 3)))), z


def exported(model: nn.Module, x: Tensor, path: Path) -> Path:
    program = torch.export.export(
        model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
    )
    torch.export.save(program, str(path))
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    model = Net()
    for buffer in (model.norm.running_mean, model.norm.running_var):
        assert buffer is not None
        nn.init.uniform_(buffer, 0.5, 1.5)
    return exported(model, torch.randn(2, 3, 8, 8), tmp_path_factory.mktemp("programs") / "net.pt2"), model


def near(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_program_becomes_a_network_of_layers_that_computes_the_same(stored: tuple[Path, Net]) -> None:
    path, model = stored
    program = read_program(path)
    kinds = {name: type(module) for name, module in program.model.named_modules() if name}
    assert kinds == {name: type(module) for name, module in model.named_modules() if name}
    assert program.inputs == (InputSpec((2, 3, 8, 8)),)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 8, 8)
        near(program.model(x), model(x))


def test_tied_weights_of_a_program_stay_tied(tmp_path: Path) -> None:
    tokens = torch.randint(20, (2, 5))
    model = Tied()
    program = read_program(exported(model, tokens, tmp_path / "a.pt2"))
    student: Any = phnnify.convert(
        program.model, 4, inputs=program.inputs, embeddings=True, min_share=0
    ).model
    assert sum(isinstance(module, PHMLayer) for module in student.modules()) == 3
    assert len({id(m.S) for m in student.modules() if isinstance(m, PHMLayer)}) == 2


def test_a_program_is_fitted_to_data_and_comes_out_as_a_program_for_torch_alone(
    stored: tuple[Path, Net], tmp_path: Path
) -> None:
    path, model = stored
    source = read_network(path)
    assert (source.form, source.ending) == ("program", ".pt2")
    data = torch.randn(64, 3, 8, 8)
    blind = phnnify.convert(source.model, 4, inputs=source.inputs, min_share=0)
    done = phnnify.convert(source.model, 4, data=[data], min_share=0)
    errors = [(m.eval()(data)[1] - model(data)[1]).norm().item() for m in (blind.model, done.model)]
    assert errors[1] < 0.8 * errors[0]
    phnnify.save(done.model, tmp_path / "small.pt2", inputs=source.inputs)
    torch.save((data[:3], done.model.eval()(data[:3])), tmp_path / "wanted.pt")
    alone = (
        "import sys; sys.modules['phnnify'] = None; import torch\n"
        "x, wanted = torch.load('wanted.pt')\n"
        "got = torch.export.load('small.pt2').module()(x)\n"
        "torch.testing.assert_close(got, wanted)\n"
        "assert not any(name.startswith('phnnify.') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, check=True, capture_output=True)
    kept = torch.export.load(tmp_path / "small.pt2").state_dict.values()
    assert sum(t.numel() for t in kept) < 0.6 * sum(p.numel() for p in model.parameters())


def test_what_a_written_program_takes_keeps_its_free_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    small = phnnify.convert(model, 2, inputs="1x?5x8", min_share=0).model
    phnnify.save(small, tmp_path / "a.pt2", inputs="1x?5x8")
    for x in (torch.randn(3, 9, 8), torch.randn(70, 40, 8)):
        near(read_program(tmp_path / "a.pt2").model(x), small.eval()(x))
        near(torch.export.load(tmp_path / "a.pt2").module()(x), small.eval()(x))


def test_a_length_stays_free_without_being_told(tmp_path: Path) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    assert write_program(model, tmp_path / "a.pt2", read_inputs("1x5x8")) is None
    x = torch.randn(3, 9, 8)
    near(torch.export.load(tmp_path / "a.pt2").module()(x), model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_converted_recurrent_layers_become_programs_of_any_batch_and_one_length(
    kind: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = kind(8, 8, batch_first=True, bidirectional=True)
    small = phnnify.convert(layer, 2, inputs="1x6x8", min_share=0).model.eval()
    note = phnnify.save(small, tmp_path / "a.pt2", inputs="1x6x8")
    assert note == (
        "The .pt2 file takes that one length only; all sizes but the batch and those marked in 1x6x8 are "
        "fixed: torch.export unrolls recurrent layers; an ONNX file can take any length."
    )
    program = torch.export.load(tmp_path / "a.pt2")
    x = torch.randn(5, 6, 8)
    near(program.module()(x)[0], small(x)[0])
    assert sum(t.numel() for t in program.state_dict.values()) == sum(p.numel() for p in small.parameters())
    with pytest.raises(ExportError, match=r"fixed more than it was asked to.*\[1\] == 6"):
        write_program(small, tmp_path / "b.pt2", read_inputs("1x?6x8"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


class Stepwise(nn.Module):
    """Its trace holds for one length only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, i] * i for i in range(x.shape[1])], 1)


def test_any_length_that_torch_fixes_is_noted_with_its_reason(tmp_path: Path) -> None:
    note = write_program(Stepwise(), tmp_path / "a.pt2", read_inputs("1x6x1"))
    assert note
    assert note.startswith(
        "The .pt2 file takes that one length only; all sizes but the batch and those marked in 1x6x1 are "
        "fixed: torch.export fixed more than it was asked to"
    )


class Unrolled(nn.Module):
    """Its trace holds for one batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * i for i, row in enumerate(x)])


class Fixed(nn.Module):
    """It takes one batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(5, 8) + torch.arange(40).reshape(5, 8)


@pytest.mark.parametrize(("model", "sizes"), [(Unrolled(), "1x8"), (Fixed(), "5x8")])
def test_a_batch_that_cannot_be_free_is_fixed_at_the_users(
    model: nn.Module, sizes: str, tmp_path: Path
) -> None:
    (spec,) = read_inputs(sizes)
    note = write_program(model, tmp_path / "a.pt2", (spec,))
    assert f"The .pt2 file takes batches of {spec.shape[0]} only." in (note or "")
    x = torch.randn(spec.shape)
    near(torch.export.load(tmp_path / "a.pt2").module()(x), model(x))


def test_a_program_is_the_same_bytes_each_time_and_holds_no_paths(
    stored: tuple[Path, Net], tmp_path: Path
) -> None:
    files = [tmp_path / "a" / "net.pt2", tmp_path / "b" / "net.pt2"]
    for file in files:
        file.parent.mkdir()
        write_program(stored[1], file, read_inputs("1x3x8x8"))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert __file__.encode() not in files[0].read_bytes()


@pytest.mark.filterwarnings("error")
def test_a_program_can_be_copied_without_torchs_warnings(stored: tuple[Path, Net]) -> None:
    copied(read_program(stored[0]).model, {})


def test_writing_says_what_is_missing_or_cannot_be_done_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        write_program(nn.Linear(4, 4), tmp_path / "a.pt2", ())
    with pytest.raises(ExportError, match=r"torch\.export cannot capture Branching"):
        write_program(Branching(), tmp_path / "a.pt2", read_inputs("1x16"))
    assert not list(tmp_path.iterdir())


def edited(path: Path, target: Path, change: Callable[[str, bytes], bytes | None], more: Any = ()) -> Path:
    """The archive with entries changed (None drops one) and others added."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name.split("/", 1)[1], old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in more:
            new.writestr(f"{path.stem}/{name}", content)
    return target


class Mark:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def in_model(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def changed(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return changed


def with_guards(model: dict[str, Any], marker: Path) -> None:
    model["guards_code"] = [f"open({str(marker)!r}, 'w').close() is None"]


def with_target(model: dict[str, Any], target: str) -> None:
    node = next(n for n in model["graph_module"]["graph"]["nodes"] if "relu" in n["target"])
    node["target"] = target


def with_size(model: dict[str, Any], expression: str) -> None:
    text = json.dumps(model)
    for name in list(model["range_constraints"]):
        found = f"Symbol('{name}', positive=True, integer=True)"
        assert found in text
        text = text.replace(found, expression)
    model.clear()
    model.update(json.loads(text))


def test_example_inputs_that_run_code_are_refused_and_do_not_run(
    stored: tuple[Path, Net], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    buffer = io.BytesIO()
    torch.save((Mark(marker),), buffer)
    hostile = edited(
        stored[0], tmp_path / "a.pt2", lambda name, old: buffer.getvalue() if "sample_inputs" in name else old
    )
    with pytest.raises(UntrustedError, match="example inputs"):
        read_program(hostile)
    assert not marker.exists()


def test_pickled_weights_are_refused_and_do_not_run(stored: tuple[Path, Net], tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            config["config"]["a.weight"]["use_pickle"] = True
            return json.dumps(config).encode()
        return pickle.dumps(Mark(marker)) if name == "data/weights/weight_0" else content

    with pytest.raises(UntrustedError, match=r"a\.weight as a pickle"):
        read_program(edited(stored[0], tmp_path / "a.pt2", change))
    assert not marker.exists()


def test_guards_never_run(stored: tuple[Path, Net], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = edited(stored[0], tmp_path / "a.pt2", in_model(lambda model: with_guards(model, marker)))
    x = torch.randn(2, 3, 8, 8)
    near(read_program(hostile).model(x), stored[1](x))
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "_operator.call",
        "torch.ops.higher_order.call_torchbind",
        "torch.hub.load",
        "torch.serialization.os.system",
        "torch.load",
        "#custom",
        "os.system",
    ],
)
def test_functions_that_are_no_operators_are_refused(
    target: str, stored: tuple[Path, Net], tmp_path: Path
) -> None:
    hostile = edited(stored[0], tmp_path / "a.pt2", in_model(lambda model: with_target(model, target)))
    with pytest.raises(UntrustedError, match="is no operator"):
        read_program(hostile)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "Symbol('x', positive=True).__class__",
        "(1).__class__",
        "eval('1')",
        "s0.subs(1, 2)",
        "[c for c in ()]",
        "Symbol('s0', positive=print(1))",
    ],
)
def test_sizes_that_are_no_arithmetic_are_refused(
    expression: str, stored: tuple[Path, Net], tmp_path: Path
) -> None:
    hostile = edited(stored[0], tmp_path / "a.pt2", in_model(lambda model: with_size(model, expression)))
    with pytest.raises(UntrustedError, match="no arithmetic"):
        read_program(hostile)


def test_compiled_code_and_compressed_archives_are_refused(stored: tuple[Path, Net], tmp_path: Path) -> None:
    path = stored[0]
    compiled = edited(path, tmp_path / "a.pt2", lambda name, old: old, [("data/aotinductor/model/x.so", b"")])
    with pytest.raises(FileError, match="compiled code"):
        read_program(compiled)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt2", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(FileError, match="compressed"):
        read_program(tmp_path / "b.pt2")


@pytest.mark.parametrize(
    "entry", ["models/model.json", "data/weights/model_weights_config.json", "data/weights/weight_0"]
)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1, 2", b"\xff" * 10])
def test_damaged_programs_get_one_clear_error(
    entry: str, content: bytes | None, stored: tuple[Path, Net], tmp_path: Path
) -> None:
    damaged = edited(stored[0], tmp_path / "a.pt2", lambda name, old: content if name == entry else old)
    with pytest.raises(FileError):
        read_program(damaged)


def test_a_program_with_an_arch_and_a_converted_program_as_student_are_refused(
    stored: tuple[Path, Net],
) -> None:
    with pytest.raises(FileError, match="whole network"):
        read_network(stored[0], arch="tests.graph_networks:Plain")
    with pytest.raises(FileError, match=r"torch\.export program"):
        phnnify.load(stored[0])
