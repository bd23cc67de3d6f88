"""Which file may import which, and a few habits that a linter can see."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phnnify

PACKAGE = Path(phnnify.__file__).parent
# Data flows down this list: a file imports only from files above it.
ORDER = [
    "distilling",
    "quantizing",
    "comparing",
    "hyper",
    "errors",
    "quiet",
    "watching",
    "offline",
    "hollow",
    "algebra",
    "factorization",
    "algebras",
    "products",
    "cost",
    "layers.fresh",
    "layers.reuse",
    "layers.factored",
    "layers.base",
    "layers.linear",
    "layers.conv",
    "layers.embedding",
    "layers",
    "hyper.encoding",
    "inputs",
    "measure",
    "repeatable",
    "axes",
    "forms",
    "opened.linear",
    "opened.attention",
    "opened.recurrent",
    "opened.graph",
    "opened.several",
    "opened.bare",
    "opened.hold",
    "opened.folded",
    "opened",
    "rules",
    "hyper.functional",
    "uses",
    "trace",
    "plan",
    "plan_file",
    "budget",
    "alternate",
    "calibrate",
    "fit",
    "search",
    "given",
    "plan_shown",
    "fresh",
    "rewrite",
    "hyper.predictor",
    "bare_uses",
    "hyper.targets",
    "hyper.network",
    "files",
    "pages",
    "strict",
    "chart",
    "runtime",
    "constants",
    "asked",
    "zoos",
    "references",
    "foreign",
    "archive",
    "batches",
    "data_options",
    "arrays",
    "images",
    "loaders",
    "data",
    "caller_data",
    "feed",
    "lockstep",
    "tables",
    "survey",
    "sequence",
    "losses",
    "evaluate",
    "sensitivity",
    "curves",
    "choose",
    "distilling.augment",
    "distilling.recipe",
    "distilling.checkpoint",
    "distilling.course",
    "distilling.shown",
    "distilling.signals",
    "distilling.engine",
    "distilling.lesson",
    "distilling.optimize",
    "distilling.run",
    "distilling.distillation",
    "weights",
    "pieces",
    "shards",
    "programs",
    "capture",
    "folders",
    "rebuild",
    "hyper.file",
    "hub",
    "learned",
    "heat",
    "store",
    "sources",
    "graphs",
    "export",
    "quantizing.initializers",
    "quantizing.fuse",
    "quantizing.gemm",
    "quantizing.names",
    "quantizing.storage",
    "quantizing.quantize",
    "quantizing.quantized",
    "notes",
    "change",
    "layer_report",
    "report",
    "conversion",
    "smallest",
    "eval_data",
    "pipeline",
    "streaming",
    "comparing.latency",
    "comparing.candidates",
    "comparing.probe",
    "comparing.runners",
    "comparing.verdict",
    "comparing.comparison",
    "comparing.contest",
    "render",
    "cli.options",
    "cli.reading",
    "cli.writing",
    "cli.stream",
    "cli.convert",
    "cli.distill",
    "cli.inspect",
    "cli.export",
    "cli.compare",
    "cli.hyper",
    "cli",
    "__main__",
]
# The only files that may import these, whatever the place in the file.
HOMES = {
    "typer": {name for name in ORDER if name.split(".")[0] == "cli"},
    "rich": {"render"},
    "onnx": {
        "export",
        "runtime",
        "quantizing.initializers",
        "quantizing.fuse",
        "quantizing.gemm",
        "quantizing.names",
        "quantizing.storage",
        "quantizing.quantize",
    },
    "onnxruntime": {"runtime", "comparing.probe", "quantizing.quantize"},
    "onnxscript": {"graphs"},
    "safetensors": {"archive", "arrays", "shards", "store"},
    "PIL": {"images"},
    "tomlkit": {"constants", "plan_file"},
    "accelerate": {"distilling.engine"},
    "matplotlib": {"heat"},
    "transformers": {"hub"},
    "huggingface_hub": {"offline"},
    "timm": {"zoos"},
    "torchvision": {"zoos"},
    "pickle": set[str](),
}
LAZY = {
    "onnx",
    "onnxruntime",
    "onnxscript",
    "PIL",
    "accelerate",
    "matplotlib",
    "transformers",
    "huggingface_hub",
}


_LOADERS = ("torch.load", "torch.export.load")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py")) if name_of(path)}
every_file = pytest.mark.parametrize("name", FILES)


def tree_of(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a tree imports; `from a import b` counts as a.b where that is a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in below if name.removeprefix("phnnify.") in FILES]
            yield from modules or [str(node.module)]


def test_the_order_names_every_file_once() -> None:
    assert sorted(ORDER) == sorted(FILES)


@every_file
def test_a_file_imports_only_from_files_above_it(name: str) -> None:
    ours = {
        module.removeprefix("phnnify.") for module in imports(tree_of(name)) if module.startswith("phnnify.")
    }
    below = {module for module in ours if ORDER.index(module) >= ORDER.index(name)}
    assert not below


@every_file
def test_libraries_are_imported_only_where_they_belong(name: str) -> None:
    roots = {module.split(".")[0] for module in imports(tree_of(name))}
    assert not {library for library, homes in HOMES.items() if library in roots and name not in homes}


@every_file
def test_heavy_libraries_are_imported_where_they_are_used(name: str) -> None:
    top = [node for node in tree_of(name).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    roots = {module.split(".")[0] for node in top for module in imports(ast.Module([node], []))}
    assert not roots & LAZY


@every_file
def test_torch_load_stands_in_few_files_only_and_says_weights_only(name: str) -> None:
    nodes = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.Call)]
    calls = {function: [n for n in nodes if ast.unparse(n.func) == function] for function in _LOADERS}
    assert not calls["torch.load"] or name in ("archive", "distilling.checkpoint", "programs")
    assert not calls["torch.export.load"] or name in ("capture", "programs")
    for call in calls["torch.load"]:
        assert any(keyword.arg == "weights_only" for keyword in call.keywords)


@every_file
def test_user_input_never_meets_assert(name: str) -> None:
    assert not [node.lineno for node in ast.walk(tree_of(name)) if isinstance(node, ast.Assert)]


@every_file
def test_everything_public_has_a_docstring(name: str) -> None:
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    scopes: list[ast.AST] = [
        tree,
        *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"),
    ]
    bare = [
        node.name
        for scope in scopes
        for node in ast.iter_child_nodes(scope)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from phnnify.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False False"


def test_every_public_name_can_be_imported_from_the_top() -> None:
    for name in phnnify.__all__:
        assert getattr(phnnify, name) is not None
    assert set(phnnify._HOMES) | {"__version__"} == set(phnnify.__all__)
    assert dir(phnnify) == sorted(phnnify.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = phnnify.nothing
