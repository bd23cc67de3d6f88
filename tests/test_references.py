"""Python objects named on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from phnnify.errors import FileError, ModelError, PhnnifyError, UsageError
from phnnify.references import build_network, load_callable
from tests.networks import Small

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 4))

def build():
    return Net()

def needs(argument):
    return Net()

def fails():
    raise KeyError("weights")

def leaves():
    raise SystemExit("bye")

def number():
    return 3

instance = Net()
text = "text"
"""


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """What a test imports from its own folder is forgotten after it."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some_net.py"
    path.write_text(NET)
    return path


def refused(reference: str, kind: type[PhnnifyError]) -> PhnnifyError:
    before = list(sys.path)
    with pytest.raises(PhnnifyError) as caught:
        build_network(reference)
    assert type(caught.value) is kind
    assert "--arch" in str(caught.value)
    assert sys.path == before
    return caught.value


@pytest.mark.parametrize("name", ["Net", "build"])
def test_a_class_or_a_function_in_a_file_is_called(name: str, file: Path) -> None:
    assert type(build_network(f"{file}:{name}")).__name__ == "Net"


def test_a_name_in_an_importable_module_is_called() -> None:
    assert type(build_network("tests.networks:Small")) is Small
    assert type(build_network("torch.nn:Identity")) is nn.Identity


def test_a_module_in_the_current_folder_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert type(build_network("some_net:Net")).__name__ == "Net"
    assert type(build_network("some_net.py:Net")).__name__ == "Net"


def test_a_class_from_a_file_can_be_pickled_where_it_is_found_again(file: Path) -> None:
    kind = type(build_network(f"{file}:Net"))
    assert kind.__module__ == "some_net"
    assert sys.modules["some_net"].Net is kind


@pytest.mark.parametrize("reference", ["net.py", "", ":", "net.py:", ":Net", "net"])
def test_another_form_is_wrong_usage(reference: str) -> None:
    error = refused(reference, UsageError)
    assert f"--arch {reference!r} cannot be read" in str(error)
    assert error.hint == "the form is file.py:callable or package.module:callable"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/none.py" in str(refused(f"{tmp_path}/none.py:Net", FileError))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").mkdir()
    assert "there is no file" in str(refused(f"{tmp_path}/net.py:Net", FileError))


def test_a_missing_module_is_named() -> None:
    error = refused("no_such_package.net:Net", FileError)
    assert "no_such_package.net cannot be imported: ModuleNotFoundError" in str(error)


@pytest.mark.parametrize("place", ["..", ".net", "a b", "net/x"])
def test_a_name_that_no_module_can_have_is_refused(place: str) -> None:
    assert "cannot be imported" in str(refused(f"{place}:Net", FileError))


@pytest.mark.parametrize("name", ["Nat", "text", "build.x"])
def test_a_missing_callable_is_named_with_those_there_are(name: str, file: Path) -> None:
    error = refused(f"{file}:{name}", FileError)
    assert f"has no callable {name!r}" in str(error)
    assert error.hint == "it has Net, build, needs, fails, leaves, number, instance"


def test_a_file_without_callables_of_its_own_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty_net.py").write_text("from torch.nn import Linear\n")
    assert refused(f"{tmp_path}/empty_net.py:Net", FileError).hint == "it has none of its own"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def net(:\n", "SyntaxError"),
        ("raise SystemExit(0)\n", "SystemExit: 0"),
        ("import sys; sys.exit()\n", "SystemExit"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("\x00", "null bytes"),
    ],
)
def test_a_file_that_cannot_be_imported_gives_the_reason(body: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "bad_net.py").write_text(body)
    error = refused(f"{tmp_path}/bad_net.py:Net", FileError)
    assert "bad_net.py cannot be imported" in str(error)
    assert found in str(error)
    assert "bad_net" not in sys.modules


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("needs", "TypeError: needs() missing 1 required positional argument"),
        ("fails", "KeyError: 'weights'"),
        ("leaves", "SystemExit: bye"),
        ("instance", "TypeError"),
    ],
)
def test_a_call_that_fails_gives_the_reason_and_a_hint(name: str, found: str, file: Path) -> None:
    error = refused(f"{file}:{name}", ModelError)
    assert f"{name}: the call failed: {found}" in str(error)
    assert error.hint is not None
    assert "without arguments" in error.hint


def test_a_call_that_gives_no_network_says_what_it_gave(file: Path) -> None:
    assert "number gave a int, not a torch.nn.Module" in str(refused(f"{file}:number", ModelError))


def test_a_file_may_import_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "parts_beside.py").write_text("from torch.nn import Tanh as Part\n")
    (tmp_path / "whole_net.py").write_text("from parts_beside import Part\ndef net():\n    return Part()\n")
    before = list(sys.path)
    assert type(build_network(f"{tmp_path}/whole_net.py:net")) is nn.Tanh
    assert sys.path == before


def test_a_function_may_import_the_files_beside_it_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "late_parts.py").write_text("from torch.nn import Tanh as Part\n")
    (tmp_path / "late_net.py").write_text("def net():\n    from late_parts import Part\n    return Part()\n")
    before = list(sys.path)
    assert type(build_network(f"{tmp_path}/late_net.py:net")) is nn.Tanh
    assert sys.path == before


@pytest.mark.parametrize("change", ["sys.path.pop(0)", "sys.path = sys.path[1:]", "sys.path.append('x')"])
def test_a_file_may_change_the_path_itself(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "path_net.py").write_text(f"import sys\nfrom torch.nn import Tanh\n{change}\n")
    assert type(build_network(f"{tmp_path}/path_net.py:Tanh")) is nn.Tanh
    assert str(tmp_path) not in sys.path


def test_a_file_with_the_name_of_a_loaded_module_leaves_that_alone(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(NET)
    kind = type(build_network(f"{tmp_path}/json.py:Net"))
    assert kind.__module__ == f"{tmp_path.name}_json"
    assert sys.modules["json"] is json
    assert sys.modules[kind.__module__].Net is kind


@pytest.mark.parametrize("taken", ["sys", "torch", "phnnify"])
def test_no_loaded_module_is_replaced(taken: str, tmp_path: Path) -> None:
    before = sys.modules[taken]
    (tmp_path / f"{taken}.py").write_text(NET)
    build_network(f"{tmp_path}/{taken}.py:Net")
    assert sys.modules[taken] is before


def test_a_file_with_the_name_of_a_module_not_yet_loaded_leaves_that_alone(tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text(NET)
    program = (
        "import sys; from phnnify.references import build_network; assert 'onnx' not in sys.modules\n"
        f"build_network({str(tmp_path / 'onnx.py')!r} + ':Net'); import onnx; onnx.load"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path.parent)


def test_the_same_file_can_be_named_again_after_a_change(file: Path) -> None:
    first = build_network(f"{file}:Net")
    file.write_text(NET.replace("Linear(4, 4)", "Linear(4, 17)"))
    second = build_network(f"{file}:Net")
    assert type(first).__module__ == type(second).__module__ == "some_net"
    assert second[0].out_features == 17  # type: ignore[index]


def test_two_files_of_the_same_name_in_two_folders_do_not_meet(tmp_path: Path) -> None:
    kinds = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "twin_net.py").write_text(NET)
        kinds.append(type(build_network(f"{tmp_path}/{name}/twin_net.py:Net")))
    assert [kind.__module__ for kind in kinds] == ["twin_net", "two_twin_net"]


def test_names_with_spaces_and_dots_are_files_too(tmp_path: Path) -> None:
    (tmp_path / "my net.v2.py").write_text(NET)
    assert type(build_network(f"{tmp_path}/my net.v2.py:Net")).__name__ == "Net"


def test_any_option_can_take_a_reference(file: Path) -> None:
    assert load_callable(f"{file}:number", "--data")() == 3
    with pytest.raises(UsageError, match=r"--data 'x' cannot be read"):
        load_callable("x", "--data")
