"""torch.export programs: read safely, and converted."""

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
from phnnify.algebra import Order
from phnnify.errors import FileError, UntrustedError
from phnnify.inputs import InputSpec
from phnnify.layers import PHMConv1d, PHMLayer, PHMLinear
from phnnify.measure import copied
from phnnify.programs import read_program
from phnnify.sources import read_network
from tests.graph_networks import Operators, Tied


def exported(model: nn.Module, x: Tensor, path: Path) -> Path:
    program = torch.export.export(
        model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
    )
    torch.export.save(program, str(path))
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    model = Operators()
    for buffer in (model.norm.running_mean, model.norm.running_var):
        assert buffer is not None
        nn.init.uniform_(buffer, 0.5, 1.5)
    return exported(model, torch.randn(2, 3, 8, 8), tmp_path_factory.mktemp("programs") / "net.pt2"), model


def near(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_program_becomes_a_network_of_layers_that_computes_the_same(stored: tuple[Path, Operators]) -> None:
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
    stored: tuple[Path, Operators], tmp_path: Path
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


@pytest.mark.parametrize("form", [Order(2, 2, 2, 3), Order.low_rank(3)], ids=str)
def test_a_program_of_a_converted_network_is_read_as_what_it_computes(form: Order, tmp_path: Path) -> None:
    model = nn.Sequential(PHMConv1d(8, 16, 3, n=form), nn.ReLU(), nn.Flatten(), PHMLinear(96, 16, n=form))
    x = torch.randn(2, 8, 8)
    phnnify.save(model.eval(), tmp_path / "small.pt2", inputs="2x8x8")
    near(read_program(tmp_path / "small.pt2").model(x), model(x))


@pytest.mark.filterwarnings("error")
def test_a_program_can_be_copied_without_torchs_warnings(stored: tuple[Path, Operators]) -> None:
    copied(read_program(stored[0]).model, {})


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
    stored: tuple[Path, Operators], tmp_path: Path
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


def test_pickled_weights_are_refused_and_do_not_run(stored: tuple[Path, Operators], tmp_path: Path) -> None:
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


def test_guards_never_run(stored: tuple[Path, Operators], tmp_path: Path) -> None:
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
    target: str, stored: tuple[Path, Operators], tmp_path: Path
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
    expression: str, stored: tuple[Path, Operators], tmp_path: Path
) -> None:
    hostile = edited(stored[0], tmp_path / "a.pt2", in_model(lambda model: with_size(model, expression)))
    with pytest.raises(UntrustedError, match="no arithmetic"):
        read_program(hostile)


def test_compiled_code_and_compressed_archives_are_refused(
    stored: tuple[Path, Operators], tmp_path: Path
) -> None:
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
    entry: str, content: bytes | None, stored: tuple[Path, Operators], tmp_path: Path
) -> None:
    damaged = edited(stored[0], tmp_path / "a.pt2", lambda name, old: content if name == entry else old)
    with pytest.raises(FileError):
        read_program(damaged)


def test_a_program_with_an_arch_and_a_converted_program_as_student_are_refused(
    stored: tuple[Path, Operators],
) -> None:
    with pytest.raises(FileError, match="whole network"):
        read_network(stored[0], arch="tests.graph_networks:Plain")
    with pytest.raises(FileError, match=r"torch\.export program"):
        phnnify.load(stored[0])
