"""The commands: options in; files, stdout, stderr and exit codes out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import nn

import phnnify
from phnnify import cli, pipeline, references, render
from phnnify.algebras import named_algebra
from phnnify.plan_file import parse_plan
from tests.networks import ARCH, Branches, Outcome, Small, command, same_tensors, sequence, small


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the same network as weights (net.pt) and as a module (module.pt)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHNNIFY_TRACEBACK", raising=False)
    torch.save(small().state_dict(), "net.pt")
    torch.save(sequence(), "module.pt")
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def here() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"net.pt", "module.pt"}


def convert(*arguments: object, model: str = "net.pt") -> Outcome:
    return command("convert", model, "--arch", ARCH, "--n", 2, *arguments)


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err if outcome.code else "") == (0, "")
    return outcome


def failed(outcome: Outcome, code: int, message: str, hint: str | None = None) -> Outcome:
    """Assert one message on stderr, with its hint after a blank line, and nothing on stdout."""
    lines = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    if hint is not None:
        assert lines[1] == ""
        assert lines[2].startswith("hint: ")
        assert hint in lines[2]
    assert len(lines) in (1, 3)
    return outcome


# convert


def test_weights_go_out_as_weights_beside_you() -> None:
    outcome = done(convert())
    assert here() == {"net-n2.safetensors"}
    model = phnnify.load("net-n2.safetensors", model=Small())
    expected = phnnify.convert(small(), 2).model
    assert same_tensors(model.state_dict(), expected.state_dict())
    assert outcome.err == "wrote net-n2.safetensors\n"


def test_a_module_goes_out_as_a_module() -> None:
    done(command("convert", "module.pt", "--n", 4))
    assert here() == {"module-n4.pt"}
    expected = phnnify.convert(sequence(), 4).model
    assert same_tensors(phnnify.load("module-n4.pt").state_dict(), expected.state_dict())


def test_the_output_is_in_the_current_folder_wherever_the_model_is(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "net.pt").rename("deep/net.v1.pt")
    done(convert(model="deep/net.v1.pt"))
    assert here() == {"deep", "net.v1-n2.safetensors"}


@pytest.mark.parametrize("name", ["out.pt", "out.pth", "out.bin"])
def test_another_ending_asks_for_another_kind(name: str) -> None:
    done(convert("-o", name))
    assert isinstance(phnnify.load(name, trust=True), Small)
    done(command("convert", "module.pt", "--output", "out.safetensors"))
    assert isinstance(phnnify.load("out.safetensors", model=sequence()), nn.Sequential)


def test_the_default_n_is_4() -> None:
    done(command("convert", "module.pt"))
    assert here() == {"module-n4.pt"}


def test_a_users_module_needs_trust() -> None:
    torch.save(small(), "user.pt")
    hint = "save its state_dict and give --arch; or, if you trust the file's origin, --trust"
    failed(command("convert", "user.pt"), 1, "code that is not known to be safe: tests.networks.Small", hint)
    assert here() == {"user.pt"}
    done(command("convert", "user.pt", "--trust"))
    failed(command("inspect", "user-n4.pt"), 1, "tests.networks.Small", hint)


def test_the_table_shows_every_layer_and_the_whole_network() -> None:
    out = done(convert("--exclude", "head")).out
    assert "16×16" in out
    assert "excluded by the user" in out
    assert "converted part" in out
    assert "model file, bytes" in out
    assert "It needs distillation from the original before use." in out


def test_quiet_prints_nothing() -> None:
    assert convert("--quiet") == Outcome(0, "", "")
    assert here() == {"net-n2.safetensors"}


def test_json_is_one_document_on_stdout_and_nothing_else() -> None:
    outcome = done(convert("--json", "--report", "r.json"))
    report = json.loads(outcome.out)
    assert outcome.err == ""
    assert report["n"] == 2
    assert report["params"]["before"] == sum(p.numel() for p in small().parameters())
    assert report["params"]["after"] < report["params"]["before"]
    assert report["bytes"] == {
        "before": Path("net.pt").stat().st_size,
        "after": Path("net-n2.safetensors").stat().st_size,
    }
    assert [layer["name"] for layer in report["layers"]] == ["hidden", "head"]
    assert report == json.loads(Path("r.json").read_text())


@pytest.mark.parametrize("name", ["r.json", "r.md", "r.html"])
def test_reports_are_written_in_the_form_of_their_ending(name: str) -> None:
    done(convert("--report", name, "--report", "again.json"))
    text = Path(name).read_text(encoding="utf-8")
    assert text.lstrip().startswith({"r.json": "{", "r.md": "# phnnify", "r.html": "<!doctype html>"}[name])
    assert "hidden" in text
    assert here() == {"net-n2.safetensors", name, "again.json"}


def test_everything_that_was_written_is_named(tmp_path: Path) -> None:
    err = done(
        convert("--report", "r.md", "-o", tmp_path / "o.pt", "--onnx", "o.onnx", "--input", "1x16")
    ).err
    assert err == f"wrote {tmp_path / 'o.pt'}, o.onnx, r.md\n"


def test_an_onnx_file_is_written_and_reported() -> None:
    outcome = done(convert("--onnx", "net.onnx", "--input", "1x16", "--json"))
    onnx = json.loads(outcome.out)["onnx"]
    assert onnx["bytes"] == Path("net.onnx").stat().st_size
    assert onnx["max_rel_diff"] < 1e-5
    x = torch.randn(7, 16)
    got = onnxruntime.InferenceSession("net.onnx").run(None, {"x": x.numpy()})
    expected = phnnify.load("net-n2.safetensors", model=Small())(x)
    assert torch.allclose(torch.from_numpy(got[0]), expected, atol=1e-5)
    assert here() == {"net-n2.safetensors", "net.onnx"}


def test_converting_twice_gives_the_same_bytes() -> None:
    done(convert("-o", "a.safetensors"))
    done(convert("-o", "b.safetensors"))
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_the_original_is_not_changed() -> None:
    before = Path("net.pt").read_bytes()
    done(convert())
    assert Path("net.pt").read_bytes() == before


def statuses(*arguments: object) -> dict[str, str]:
    report = json.loads(done(command("inspect", "net.pt", "--arch", ARCH, "--json", *arguments)).out)
    return {layer["name"]: layer["status"] for layer in report["layers"]}


def test_include_and_exclude_choose_layers() -> None:
    assert statuses() == {"hidden": "converted", "head": "converted"}
    assert statuses("--include", "hid*") == {"hidden": "converted", "head": "kept"}
    assert statuses("--exclude", "h*d") == {"hidden": "converted", "head": "kept"}
    both = statuses("--include", "hidden", "--include", "head", "--exclude", "hidden")
    assert both == {"hidden": "kept", "head": "converted"}
    done(convert("--include", "head"))
    assert type(phnnify.load("net-n2.safetensors", model=Small()).get_submodule("hidden")) is nn.Linear


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    failed(convert("--include", "conv*"), 1, "--include 'conv*' matches no weight", "names look like hidden")
    failed(convert("--exclude", "conv*"), 1, "--exclude 'conv*' matches no weight")
    assert here() == set()


def test_min_share_is_a_percentage_of_the_parameters() -> None:
    share = 100 * 8 * 16 / sum(p.numel() for p in small().parameters())
    assert statuses("--min-share", share - 0.1) == {"hidden": "converted", "head": "converted"}
    assert statuses("--min-share", share + 0.1) == {"hidden": "converted", "head": "kept"}
    failed(convert("--min-share", 100), 1, "no weight can be converted", "--min-share 0 lets small ones in")


# Plans


@pytest.mark.parametrize("name", ["plan.toml", "plan.json", "plan"])
def test_a_plan_from_inspect_can_be_edited_and_followed(name: str) -> None:
    done(command("inspect", "net.pt", "--arch", ARCH, "--n", 2, "--plan", name))
    text = Path(name).read_text()
    plan = parse_plan(text)
    assert text.startswith("{") == (name == "plan.json")
    assert list(plan.conversions) == ["hidden", "head"]
    if name == "plan.json":
        document = json.loads(text)
        document["layers"][1] = {"name": "head", "kind": "Linear", "shape": [8, 16], "reason": "I like it"}
        Path(name).write_text(json.dumps(document))
    else:
        before, _, head = text.partition('name = "head"')
        assert "order = [2, 2]\nterms = 2" in head
        head = head.replace("order = [2, 2]\nterms = 2", 'reason = "I like it"')
        Path(name).write_text(f'{before}name = "head"{head}')
    report = json.loads(done(command("convert", "net.pt", "--arch", ARCH, "--plan", name, "--json")).out)
    assert [(layer["status"], layer["reason"]) for layer in report["layers"]] == [
        ("converted", None),
        ("kept", "I like it"),
    ]
    assert here() == {name, "net-n2.safetensors"}


def test_an_unedited_plan_gives_the_same_network() -> None:
    done(convert("-o", "a.safetensors"))
    done(command("inspect", "net.pt", "--arch", ARCH, "--n", 2, "--plan", "plan.toml"))
    done(convert("-o", "b.safetensors", "--plan", "plan.toml"))
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_inspect_says_that_it_wrote_the_plan() -> None:
    assert "wrote plan.toml" in done(command("inspect", "module.pt", "--plan", "plan.toml")).err
    assert "wrote" not in done(command("inspect", "module.pt", "--plan", "plan.toml", "--quiet")).err


def test_a_misspelt_key_of_a_plan_is_an_error() -> None:
    done(command("inspect", "net.pt", "--arch", ARCH, "--n", 2, "--plan", "plan.toml"))
    Path("plan.toml").write_text(Path("plan.toml").read_text().replace("terms = ", "term = ", 1))
    failed(
        convert("--plan", "plan.toml"),
        1,
        "layer 1 of the plan has 'term', which means nothing there",
        "terms",
    )


@pytest.mark.parametrize("name", ["module.pt2", "net", "other.pt"])
def test_a_file_that_is_no_onnx_file_is_not_written_over(name: str) -> None:
    Path(name).write_bytes(b"mine")
    failed(command("export", "module.pt", "--onnx", name, "--input", "1x16"), 2, "must end in .onnx")
    failed(command("convert", "module.pt", "--onnx", name, "--input", "1x16"), 2, "must end in .onnx")
    assert Path(name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [("n = ", "neither TOML nor JSON"), ("{", "neither TOML nor JSON"), ("", "not a plan of version 1")],
)
def test_a_plan_that_cannot_be_read_is_an_error(text: str, message: str) -> None:
    Path("plan.toml").write_text(text)
    failed(convert("--plan", "plan.toml"), 1, message)
    assert here() == {"plan.toml"}


def test_a_missing_plan_is_an_error() -> None:
    failed(convert("--plan", "none.toml"), 1, "cannot read none.toml: No such file or directory")


@pytest.mark.parametrize(
    "choice",
    [
        ("--budget", "10%"), ("--max-drop", "1%"), ("--exclude", "head"), ("--algebra", "quaternion"),
        ("--min-share", "1"),
    ],
)  # fmt: skip
def test_a_plan_and_what_would_choose_another_exclude_each_other(choice: tuple[str, ...]) -> None:
    done(command("inspect", "net.pt", "--arch", ARCH, "--n", 2, "--plan", "plan.toml"))
    failed(convert("--plan", "plan.toml", *choice), 2, f"--plan and {choice[0]} exclude each other: it says")
    assert here() == {"plan.toml"}


def test_a_plan_of_another_network_is_an_error() -> None:
    done(command("inspect", "module.pt", "--plan", "plan.toml"))
    failed(
        convert("--plan", "plan.toml"), 1, "the plan names 0, 3, which the network does not have", "inspect"
    )


# inspect


def test_inspect_writes_no_model_and_shows_the_orders() -> None:
    outcome = done(command("inspect", "net.pt", "--arch", ARCH, "--n", 2))
    assert "order 2×2, 2 terms" in outcome.out
    assert outcome.err == ""
    assert here() == set()


def test_inspect_reports_and_plans_only_what_it_knows() -> None:
    outcome = done(command("inspect", "module.pt", "--json", "--report", "r.md", "--plan", "p.json"))
    report = json.loads(outcome.out)
    assert outcome.err == ""
    assert report["bytes"] == {"before": Path("module.pt").stat().st_size, "after": None}
    assert [layer["weight_error"] for layer in report["layers"]] == [None, None]
    assert [layer["flops"] for layer in report["layers"]] == [None, None]
    assert here() == {"r.md", "p.json"}


def test_inspect_counts_with_an_input() -> None:
    report = json.loads(done(command("inspect", "module.pt", "--json", "--input", "3x16")).out)
    assert [layer["flops"] for layer in report["layers"]] == [2 * 3 * 16 * 16, 2 * 3 * 16 * 8]


def test_inspect_quietly_prints_nothing() -> None:
    assert command("inspect", "module.pt", "--quiet") == Outcome(0, "", "")


# export


@pytest.mark.parametrize("model", ["net.pt", "net-n2.safetensors", "module.pt"])
def test_export_writes_networks_converted_or_not(model: str) -> None:
    done(convert())
    arch = [] if model == "module.pt" else ["--arch", ARCH]
    outcome = done(command("export", model, *arch, "--onnx", "x.onnx", "--input", "1x16"))
    assert outcome.err == ""
    assert outcome.out.startswith("x.onnx: ")
    assert "any batch size; ONNX Runtime differs from PyTorch by at most" in outcome.out
    assert here() == {"net-n2.safetensors", "x.onnx"}


def test_export_as_json_is_one_document() -> None:
    arguments = ("export", "module.pt", "--onnx", "x.onnx", "--input", "1x16")
    outcome = done(command(*arguments, "--json"))
    assert json.loads(outcome.out)["onnx"]["path"] == "x.onnx"
    assert outcome.err == ""
    assert command(*arguments, "--quiet") == Outcome(0, "", "")


def test_export_without_an_input_is_wrong_usage() -> None:
    failed(command("export", "module.pt", "--onnx", "x.onnx"), 2, "needs example inputs", "--input")
    assert here() == set()


# Wrong usage


def test_the_form_of_an_onnx_file_is_chosen() -> None:
    done(command("convert", "module.pt", "--n", 2, "-o", "small.pt"))
    operators = {}
    for form in ("factored", "folded", "dense"):
        name = f"{form}.onnx"
        done(command("export", "small.pt", "--onnx", name, "--input", "1x16", "--form", form, "--batch", 8))
        operators[form] = {node.op_type for node in onnx.load(name).graph.node}
    assert operators["dense"] < operators["folded"]
    assert "Transpose" in operators["folded"] - operators["factored"]
    assert "Gemm" in operators["folded"] - operators["factored"]
    arguments = ("export", "module.pt", "--pt2", "x.pt2", "--input", "1x16", "--form", "dense")
    failed(command(*arguments), 2, "--form needs --onnx")
    failed(convert("--form", "dense"), 2, "--form needs --onnx")


def test_onnx_without_an_input_is_wrong_usage() -> None:
    failed(convert("--onnx", "x.onnx"), 2, "--onnx needs an example input", "such as --input 1x3x32x32")
    assert here() == set()


@pytest.mark.parametrize("spec", ["16", "1x", "float99:1x16", "1x16,1x16", "0x16"])
def test_an_input_that_cannot_be_read_is_wrong_usage_or_refused(spec: str) -> None:
    outcome = convert("--input", spec)
    failed(outcome, 1 if spec == "16" else 2, "input")
    assert here() == set()


def test_an_input_that_the_network_does_not_take_is_an_error() -> None:
    failed(convert("--input", "1x5"), 1, "the network fails on an example input of float32 1x5", "--input")
    assert here() == set()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x", "", "xla"])
def test_a_device_that_is_not_here_is_wrong_usage(device: str) -> None:
    failed(convert("--device", device), 2, f"--device {device} cannot be used here", "use --device cpu")
    assert here() == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert",),
        ("convert", "net.pt", "--n", "1"),
        ("convert", "net.pt", "--n", "two"),
        ("convert", "net.pt", "--min-share", "101"),
        ("convert", "net.pt", "--opset", "5"),
        ("convert", "net.pt", "--no-such-option"),
        ("no-such-command",),
        ("--no-such-option",),
    ],
    ids=" ".join,
)
def test_what_the_command_line_does_not_know_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    outcome = command(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Error: " in outcome.err
    assert "Traceback" not in outcome.err


def test_no_arguments_show_the_help() -> None:
    outcome = command()
    assert outcome.code == 2
    assert "convert" in outcome.out + outcome.err


@pytest.mark.parametrize("name", ["net.pt", "./net.pt", "../{}/net.pt", "link.pt"])
def test_the_original_is_never_overwritten(name: str, tmp_path: Path) -> None:
    Path("link.pt").symlink_to("net.pt")
    before = Path("net.pt").read_bytes()
    name = name.format(tmp_path.name)
    for option in ("-o", "--onnx"):
        failed(
            convert(option, name, "--input", "1x16"),
            2,
            f"{name.removeprefix('./')} would overwrite the original",
            "another name",
        )
    assert Path("net.pt").read_bytes() == before


def test_a_report_or_plan_never_overwrites_the_original() -> None:
    Path("net.pt").rename("net.md")
    failed(convert("--report", "net.md", model="net.md"), 2, "would overwrite the original")
    outcome = command("inspect", "net.md", "--arch", ARCH, "--plan", "net.md")
    failed(outcome, 2, "would overwrite the original")


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "x.pt", "--onnx", "x.pt"),
        ("--report", "r.md", "--report", "./r.md"),
        ("--onnx", "r.md", "--report", "r.md"),
        ("--log", "net-n2.safetensors", "--distill", "--steps", "1", "--data", "x.npz"),
    ],
    ids=" ".join,
)
def test_two_outputs_of_the_same_name_are_refused(arguments: tuple[str, ...]) -> None:
    failed(convert("--input", "1x16", *arguments), 2, "two outputs have the same name")
    assert here() == set()


def never(*arguments: Any, **keywords: Any) -> Any:
    raise AssertionError("the work was begun")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-o", "out.onnx"), 2, "cannot tell what to write to out.onnx"),
        (("-o", "out"), 2, "cannot tell what to write to out"),
        (("--report", "r.txt"), 2, "cannot tell what to write to r.txt"),
        (("--report", "r"), 2, "cannot tell what to write to r"),
        (("-o", "none/out.pt"), 1, "there is no folder none"),
        (("--report", "none/r.md"), 1, "there is no folder none"),
        (("--onnx", "none/x.onnx", "--input", "1x16"), 1, "there is no folder none"),
        (("-o", "."), 1, "cannot write .: it is a folder"),
        (("-o", "a" * 300 + ".pt"), 1, "File name too long"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, tuple) else None,
)
def test_what_could_only_fail_at_the_end_is_refused_before_the_work(
    arguments: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "convert", never)
    failed(convert(*arguments), code, message)
    assert here() == set()


# Failures


def test_a_program_goes_in_and_out_and_torch_alone_runs_it() -> None:
    done(command("export", "module.pt", "--pt2", "net.pt2", "--input", "1x16"))
    done(command("convert", "net.pt2", "--n", 2, "--onnx", "x.onnx"))
    assert here() == {"net.pt2", "net-n2.pt2", "x.onnx"}
    x = torch.randn(5, 16)
    expected = phnnify.convert(sequence(), 2).model.eval()(x)
    got = torch.export.load("net-n2.pt2").module()(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    shown = done(command("inspect", "net.pt2", "--n", 2, "--json")).out
    assert [layer["flops"] is None for layer in json.loads(shown)["layers"]] == [False, False]


def test_one_length_of_a_program_is_said_in_the_report_and_on_the_terminal() -> None:
    torch.save(nn.LSTM(8, 8, batch_first=True), "lstm.pt")
    said = "The .pt2 file takes that one length only"
    arguments = ("lstm.pt", "--min-share", 0, "--input", "1x6x8")
    shown = done(command("convert", *arguments, "-o", "a.pt2", "--report", "a.json", "--report", "a.md"))
    assert said in " ".join(shown.out.split())
    assert said in json.loads(Path("a.json").read_text())["notes"][-1]
    assert said in Path("a.md").read_text()
    assert said in done(command("export", "lstm.pt", "--pt2", "b.pt2", "--input", "1x6x8")).out
    found = done(command("export", "lstm.pt", "--pt2", "c.pt2", "--input", "1x6x8", "--json")).out
    assert json.loads(found)["pt2_note"].startswith(said)


def test_weights_go_out_as_a_program_where_their_input_is_known() -> None:
    failed(convert("-o", "x.pt2"), 2, "a .pt2 file needs an example input", "--input")
    done(convert("-o", "x.pt2", "--input", "1x16"))
    assert here() == {"x.pt2"}


def test_export_needs_something_to_write_by_a_fitting_name() -> None:
    failed(command("export", "module.pt", "--input", "1x16"), 2, "nothing to write", "--onnx FILE or --pt2")
    failed(command("export", "module.pt", "--pt2", "x.pt", "--input", "1x16"), 2, "must end in .pt2")
    assert here() == set()


def test_a_conversion_leaves_the_state_of_an_unfinished_distillation_alone() -> None:
    Path("x.pt.checkpoint").write_bytes(b"state")
    done(command("convert", "module.pt", "-o", "x.pt"))
    assert here() == {"x.pt", "x.pt.checkpoint"}


@pytest.mark.parametrize("verb", ["convert", "inspect", "export"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pt", "there is no file none.pt"),
        (".", ". is a folder"),
        ("empty.pt", "empty.pt is empty"),
        ("text.pt", "text.pt is no model file"),
        ("list.pt", "list.pt holds a list, not a network or its weights"),
        ("a" * 300, "File name too long"),
    ],
)
def test_every_command_refuses_what_is_no_model(verb: str, name: str, message: str) -> None:
    Path("empty.pt").touch()
    Path("text.pt").write_text("hello")
    torch.save([1], "list.pt")
    before = here()
    failed(command(verb, name, *(["--onnx", "x.onnx"] if verb == "export" else [])), 1, message)
    assert here() == before


def test_weights_without_arch_say_what_to_do() -> None:
    failed(command("convert", "net.pt"), 1, "net.pt holds weights only", "with --arch file.py:callable")


@pytest.mark.parametrize(
    ("arch", "code", "message"),
    [
        ("Net", 2, "--arch 'Net' cannot be read"),
        ("none.py:Net", 1, "there is no file none.py"),
        ("tests.networks:Nat", 1, "has no callable 'Nat'"),
        ("tests.networks:same_tensors", 1, "the call failed: TypeError"),
        ("builtins:dict", 1, "gave a dict, not a torch.nn.Module"),
    ],
)
def test_an_arch_that_gives_no_network_is_an_error(arch: str, code: int, message: str) -> None:
    failed(command("convert", "net.pt", "--arch", arch), code, message)
    assert here() == set()


def test_a_converted_model_is_not_converted_again() -> None:
    done(convert())
    failed(convert(model="net-n2.safetensors"), 1, "is already converted", "convert the original")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float) -> None:
    model = small()
    with torch.no_grad():
        model.head.weight[3, 4] = value
    torch.save(model.state_dict(), "bad.pt")
    failed(convert(model="bad.pt"), 1, "head cannot be fitted", "--exclude 'head'")
    assert here() == {"bad.pt"}
    done(convert("--exclude", "head", model="bad.pt"))


def test_a_failed_export_leaves_and_shows_the_model_and_the_report_and_no_onnx_file() -> None:
    torch.save(Branches().state_dict(), "branches.pt")
    outcome = command(
        "convert", "branches.pt", "--arch", "tests.networks:Branches", "--n", 2, "--input", "1x16",
        "--onnx", "x.onnx", "--report", "r.json",
    )  # fmt: skip
    hint = "the converted model itself is fine; leave --onnx out to do without"
    *_, written, message, empty, last = outcome.err.splitlines()  # torch's exporter may have talked before
    assert outcome.code == 1
    assert "whole network" in outcome.out
    assert written == "wrote branches-n2.safetensors, r.json"
    assert message.startswith("error: torch cannot export Branches to ONNX: ")
    assert (empty, last) == ("", f"hint: {hint}")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    assert here() == {"branches.pt", "branches-n2.safetensors", "r.json"}
    assert json.loads(Path("r.json").read_text())["onnx"] is None
    assert json.loads(Path("r.json").read_text())["bytes"]["after"] > 0
    phnnify.load("branches-n2.safetensors", model=Branches())


STAGES = (
    "phnnify.sources.load_weights",
    "phnnify.pipeline.trace",
    "phnnify.pipeline.make_plan",
    "phnnify.conversion.fit_weights",
    "phnnify.conversion.rewrite",
    "phnnify.pipeline.make_report",
)


@pytest.mark.parametrize("stage", STAGES)
def test_an_unexpected_error_is_one_message_without_a_traceback(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise KeyError("first line\nsecond line")

    monkeypatch.setattr(stage, fail)
    failed(convert(), 1, "unexpected KeyError: ", "a fault of phnnify; PHNNIFY_TRACEBACK=1 shows where")
    assert here() == set()


def test_an_unexpected_error_without_a_message_is_told_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "trace", fail)
    failed(convert(), 1, "unexpected ZeroDivisionError")


def test_too_little_memory_is_no_fault() -> None:
    huge = f"1x{10**13}"
    failed(convert("--input", huge), 1, "there is not enough memory", "fewer --samples")


def test_a_writer_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise KeyError("dtype")

    monkeypatch.setattr(safetensors.torch, "save", fail)
    failed(convert(), 1, "a tensor that safetensors cannot hold: KeyError: 'dtype'", "write a .pt file")
    assert here() == set()


def test_the_environment_asks_for_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise KeyError("inside")

    monkeypatch.setattr(pipeline, "trace", fail)
    monkeypatch.setenv("PHNNIFY_TRACEBACK", "1")
    with pytest.raises(KeyError, match="inside"):
        convert()


def test_an_expected_error_has_no_traceback_even_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHNNIFY_TRACEBACK", "1")
    failed(command("convert", "none.pt"), 1, "there is no file")


# What goes where


def test_what_the_users_code_prints_does_not_reach_stdout() -> None:
    Path("loud.py").write_text(
        "import tests.networks\nprint('importing')\n\ndef net():\n    print('building')\n"
        "    model = tests.networks.Small()\n    return model\n"
    )
    for verb in ("convert", "inspect"):
        outcome = done(command(verb, "net.pt", "--arch", "loud.py:net", "--json"))
        json.loads(outcome.out)
        assert outcome.err == "importing\nbuilding\n"


def test_names_from_a_file_cannot_write_on_the_terminal_or_fake_a_second_error() -> None:
    torch.save({"a\nerror: fake\x1b[2J\x9b": torch.zeros(1), "b" * 10_000: torch.zeros(1)}, "bad.pt")
    outcome = command("convert", "bad.pt", "--arch", ARCH)
    assert outcome.code == 1
    assert "a\\nerror: fake\\x1b[2J\\x9b" in outcome.err.splitlines()[0]
    assert not set(outcome.err) & {"\x1b", "\x9b"}
    assert len(outcome.err) < 3000
    assert [line.split(":")[0] for line in outcome.err.splitlines() if line] == ["error", "hint"]


def test_brackets_in_names_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal: with a progress bar
    assert "reading [red]x.pt" in convert(model="[red]x.pt").err
    model = nn.Sequential()
    model.add_module("[/b]", nn.Linear(16, 16))
    torch.save(model, "module.pt")
    outcome = command("convert", "module.pt", "--n", 2)
    assert outcome.code == 0
    assert "[/b]" in outcome.out


def test_errors_are_told_without_colour_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in convert(model="none.pt").err
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert convert(model="none.pt").err.count("\x1b[1;31merror: ") == 1


def test_a_long_message_is_not_broken_into_lines() -> None:
    name = "x" * 200 + ".pt"
    assert convert(model=name).err == f"error: there is no file {name}\n"


def test_a_seed_makes_what_arch_draws_the_same() -> None:
    Path("drawn.py").write_text(
        "import torch, tests.networks\n\ndef net():\n    model = tests.networks.Small()\n"
        "    model.register_buffer('drawn', torch.rand(3), persistent=False)\n    return model\n"
    )
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done(command("convert", "net.pt", "--arch", "drawn.py:net", "--seed", seed, "-o", f"{name}.pt"))
    a, b, c = (Path(f"{name}.pt").read_bytes() for name in "abc")
    assert a == b != c


def test_the_progress_is_told_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    watched = render.progress

    def recording(*, quiet: bool) -> Any:
        context = watched(quiet=quiet)

        class Both:
            def __enter__(self) -> Callable[[str, int, int], None]:
                watch = context.__enter__()

                def both(what: str, at: int, of: int) -> None:
                    told.append(what)
                    watch(what, at, of)

                return both

            def __exit__(self, *error: Any) -> Any:
                return context.__exit__(*error)

        return Both()

    monkeypatch.setattr(render, "progress", recording)
    done(convert())
    assert told[0] == "reading net.pt"
    assert {"looking at the network", "fitting hidden", "fitting head"} <= set(told)
    assert told[-1] == "writing net-n2.safetensors"


# The program itself


def program(*arguments: str, **environment: str) -> Outcome:
    command_line = [sys.executable, *arguments]
    variables = {**os.environ, **environment}
    ended = subprocess.run(command_line, capture_output=True, text=True, env=variables, check=False)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def test_the_version_is_the_packages() -> None:
    assert command("--version") == Outcome(0, f"{phnnify.__version__}\n", "")


@pytest.mark.parametrize("verb", ["", "convert", "inspect", "export"])
def test_every_command_has_help_in_words(verb: str) -> None:
    outcome = command(*([verb] if verb else []), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    first, *rest = outcome.out.splitlines()
    assert first.startswith("Usage: ")
    assert f"phnnify{' ' if verb else ''}{verb} [OPTIONS]" in first
    assert any("--help" in line for line in rest)


def test_help_and_version_import_neither_torch_nor_rich() -> None:
    code = (
        "import sys\nfrom phnnify.cli import main\n"
        "for arguments in (['--version'], ['--help'], ['convert', '--help']):\n"
        "    sys.argv = ['phnnify', *arguments]\n    try:\n        main()\n    except SystemExit as e:\n"
        "        assert not e.code\n"
        "print(sorted({'torch', 'numpy', 'onnx', 'safetensors', 'tomlkit', 'rich'} & sys.modules.keys()))"
    )
    outcome = program("-c", code)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "[]"


def test_the_module_runs_as_the_command() -> None:
    assert program("-m", "phnnify", "--version") == Outcome(0, f"{phnnify.__version__}\n", "")


def test_the_program_ends_with_the_code_and_the_message() -> None:
    failed(program("-m", "phnnify", "convert", "none.pt"), 1, "there is no file none.pt")


def test_the_installed_command_converts_what_lies_in_the_current_folder() -> None:
    """The command's own folder, not the current one, is first on its import path."""
    Path("mine.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(16, 16))\n"
    )
    model = references.build_network("mine.py:Net")
    torch.save(model, "mine.pt")
    code = (
        "import sys; sys.path.remove(''); from phnnify.cli import main; "
        "sys.argv[0] = 'phnnify'; main()"
    )  # fmt: skip
    outcome = program("-c", code, "convert", "mine.pt", "--trust", "--quiet")
    assert outcome == Outcome(0, "", "")
    assert here() - {"__pycache__"} == {"mine.py", "mine.pt", "mine-n4.pt"}


def test_the_commands_are_those_of_the_contract() -> None:
    names = {info.name or getattr(info.callback, "__name__", "") for info in cli.app.registered_commands}
    assert names == {"convert", "distill", "inspect", "compare", "export", "hyper"}


# Hugging Face folders


@pytest.fixture
def bert(folder: Path) -> Iterator[Path]:
    """A folder `bert`, with 32 inputs and their classes in `tokens.pt`."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests import hub_networks

    talk = transformers.utils.logging
    talk.disable_progress_bar()
    hub_networks.folder_of(hub_networks.bert(), Path("bert"))
    torch.manual_seed(0)
    torch.save({"x": torch.randint(2, 48, (32, 6)), "y": torch.randint(0, 3, (32,))}, "tokens.pt")
    yield Path("bert")
    talk.enable_progress_bar()


def test_a_folder_goes_out_as_a_folder_beside_you(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = done(command("convert", "bert/", "--json"))
    assert here() == {"bert", "tokens.pt", "bert-n4"}
    assert {path.name for path in Path("bert-n4").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip
    assert json.loads(outcome.out)["bytes"] == {
        "before": Path("bert/model.safetensors").stat().st_size,
        "after": Path("bert-n4/model.safetensors").stat().st_size,
    }
    assert (outcome.err, capfd.readouterr()) == ("", ("", ""))
    assert type(phnnify.from_pretrained("bert-n4")).__name__ == "BertForSequenceClassification"
    done(command("convert", "bert", "-o", "bert-n4", "--n", 2, "--quiet"))
    again: Any = phnnify.from_pretrained("bert-n4")
    assert again.bert.pooler.dense.order.terms == 2


def test_a_folder_is_inspected_converted_to_files_and_exported(bert: Path) -> None:
    report = json.loads(done(command("inspect", "bert", "--json")).out)
    assert report["bytes"] == {"before": Path("bert/model.safetensors").stat().st_size, "after": None}
    done(command("convert", "bert", "-o", "small.safetensors", "--quiet"))
    done(command("convert", "bert", "-o", "small.pt", "--quiet"))
    done(command("convert", "bert", "-o", "small", "--quiet"))
    assert here() == {"bert", "tokens.pt", "small", "small.pt", "small.safetensors"}
    done(command("export", "small", "--onnx", "x.onnx", "--input", "int64:1x6"))


def test_a_converted_folder_learns_from_its_original(bert: Path) -> None:
    done(command("convert", "bert", "--quiet"))
    arguments = ("distill", "bert", "bert-n4", "--data", "tokens.pt", "--steps", 2, "--rate", 1e-3)
    done(command(*arguments, "--quiet"))
    assert here() == {"bert", "tokens.pt", "bert-n4", "bert-n4-distilled"}
    before, after = (phnnify.from_pretrained(name) for name in ("bert-n4", "bert-n4-distilled"))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not same_tensors(before.state_dict(), after.state_dict())
    assert Path("bert-n4-distilled/tokenizer.json").read_bytes() == (bert / "tokenizer.json").read_bytes()


def test_what_would_harm_a_folder_is_refused_before_the_work(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine").mkdir()
    monkeypatch.setattr(pipeline, "convert", never)
    failed(command("convert", "bert", "-o", "mine"), 1, "cannot write mine: it is a folder", "another name")
    failed(command("convert", "bert", "-o", "bert"), 1, "cannot write bert: it is a folder")
    failed(command("convert", "bert", "-o", "."), 1, "cannot write .: it is a folder")
    failed(
        command("convert", "bert", "-o", "bert/model.safetensors"), 2, "would overwrite the original", "-o"
    )
    failed(command("convert", "bert", "-o", "bert-n4.onnx"), 2, "cannot tell what to write")
    failed(command("convert", "bert", "--arch", ARCH), 1, "bert is a folder that says", "leave --arch out")
    Path("bert-n4").mkdir()
    failed(command("convert", "bert"), 1, "cannot write bert-n4: it is a folder")
    assert {path.name for path in bert.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}


def test_code_in_a_folder_needs_trust(bert: Path) -> None:
    description = json.loads((bert / "config.json").read_text())
    (bert / "own.py").write_text("open('marker', 'w')")
    description["auto_map"] = {"AutoConfig": "own.Config"}
    (bert / "config.json").write_text(json.dumps(description))
    for verb in ("convert", "inspect"):
        failed(command(verb, "bert"), 1, "bert needs code that is not part of transformers", "--trust")
    assert here() == {"bert", "tokens.pt"}


def test_a_converted_folder_is_no_original(bert: Path) -> None:
    done(command("convert", "bert", "--quiet"))
    failed(command("convert", "bert-n4"), 1, "bert-n4 is already converted", "convert the original")


# data

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


def digits(*arguments: object) -> Outcome:
    return command("convert", DIGITS / "model.pt", "--n", 4, "-o", "small.pt", *arguments)


def test_data_is_fitted_to_and_measured_on() -> None:
    test = DIGITS / "test.npz"
    data = DIGITS / "calibration.npz"
    report = json.loads(done(digits("--data", data, "--samples", 300, "--eval", test, "--json")).out)
    assert report["accuracy"]["metric"] == "top-1"
    assert report["accuracy"]["teacher"] > 0.98
    assert report["accuracy"]["student"] > 0.8
    assert report["accuracy"]["student_before"] is None
    assert report["agreement"]["samples"] == 360
    assert report["agreement"]["top1"] > 0.8
    errors = [layer["output_error"] for layer in report["layers"] if layer["status"] == "converted"]
    assert len(errors) == 3
    assert all(0 < error < 1 for error in errors)
    assert "Fitted to 300 inputs" in report["notes"][0]


def test_data_stands_in_for_an_example_input() -> None:
    done(digits("--data", DIGITS / "test.npz", "--onnx", "small.onnx", "--quiet"))
    assert here() == {"small.pt", "small.onnx"}
    assert onnxruntime.InferenceSession("small.onnx").get_inputs()[0].shape[1:] == [1, 8, 8]


def test_data_that_cannot_be_used_is_refused_and_nothing_is_written() -> None:
    failed(digits("--data", "none.npz"), 1, "there is no file none.npz")
    failed(
        digits("--data", DIGITS / "test.npz", "--mean", "0.5,x", "--std", "1,1"), 2, "not a list of numbers"
    )
    failed(digits("--data", DIGITS / "test.npz", "--mean", "0.5"), 2, "--mean has 1 numbers and --std has 0")
    failed(digits("--data", DIGITS / "test.npz", "--mean", "0,0", "--std", "1,1"), 1, "x has shape")
    failed(digits("--data", "module.pt"), 1, "has no x")
    assert here() == set()


def test_a_budget_is_inspected_kept_edited_and_followed(folder: Path) -> None:
    data = DIGITS / "calibration.npz"
    inspect = ("inspect", DIGITS / "model.pt", "--budget", "20%", "--data", data, "--samples", 100)
    first = done(command(*inspect, "--plan", "plan.toml"))
    assert "expected change of the answer" in first.out
    assert here() == {"plan.toml", "plan.curves.json"}
    written = (folder / "plan.toml").read_bytes(), (folder / "plan.curves.json").read_bytes()
    report = json.loads(done(command(*inspect, "--plan", "plan.toml", "--json")).out)
    assert written == ((folder / "plan.toml").read_bytes(), (folder / "plan.curves.json").read_bytes())
    assert report["params"]["after"] <= 0.2 * report["params"]["before"]
    assert [level["share"] for level in report["levels"]][:2] == [0.75, 0.5]
    assert report["predicted_damage"] >= 0
    followed = done(digits("--plan", "plan.toml", "--data", data, "--samples", 100, "--json"))
    after = json.loads(followed.out)
    assert after["params"] == report["params"]
    ranks = [layer["rank"] for layer in after["layers"] if layer["status"] == "converted"]
    assert ranks == [layer["rank"] for layer in report["layers"] if layer["status"] == "converted"]


def test_a_budget_names_its_file_small_and_holds() -> None:
    data = DIGITS / "calibration.npz"
    arguments = ("--budget", "60kB", "--data", data, "--samples", 100, "--quiet")
    done(command("convert", DIGITS / "model.pt", *arguments))
    assert here() == {"model-small.pt"}
    assert sum(p.numel() for p in phnnify.load("model-small.pt").parameters()) * 4 <= 60_000


def test_sizes_that_make_no_sense_are_wrong_usage() -> None:
    data = DIGITS / "calibration.npz"
    failed(digits("--budget", "20%"), 2, "--budget needs --data")
    failed(digits("--budget", "big", "--data", data), 2, "--budget 'big' is no size", "25%")
    failed(digits("--max-drop", "much", "--data", data), 2, "is no percentage")
    failed(digits("--low-rank", "some"), 2, "not auto, off or a number")
    failed(digits("--budget", "1%", "--data", data, "--samples", 50), 1, "cannot be made that small")
    assert here() == set()


def test_a_low_rank_share_is_reported_and_exported() -> None:
    arguments = ("--low-rank", "0.5", "--input", "1x1x8x8", "--onnx", "small.onnx", "--json")
    report = json.loads(done(digits(*arguments)).out)
    converted = [layer for layer in report["layers"] if layer["status"] == "converted"]
    assert any(layer["rank"] for layer in converted)
    assert report["onnx"]["max_rel_diff"] < 1e-4


# algebras and fresh networks


def test_a_fresh_network_is_written_under_a_name_of_its_own_and_comes_back() -> None:
    outcome = done(convert("--init", "fresh", "--seed", 5))
    assert here() == {"net-n2-fresh.safetensors"}
    assert "Nothing was fitted" in outcome.out
    expected = phnnify.convert(small(), 2, init="fresh", seed=5).model
    back: Any = phnnify.load("net-n2-fresh.safetensors", model=Small())
    assert same_tensors(back.state_dict(), expected.state_dict())


@pytest.mark.parametrize("more", [(), ("--init", "fresh"), ("--data", "x.npz")], ids=["fit", "fresh", "data"])
def test_a_fixed_algebra_says_n_and_names_the_file(more: tuple[str, ...]) -> None:
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((64, 16), dtype=np.float32))
    outcome = done(command("convert", "net.pt", "--arch", ARCH, "--algebra", "quaternion", *more, "--json"))
    report = json.loads(outcome.out)
    assert report["n"] == 4
    assert [(layer["algebra"], layer["order"]) for layer in report["layers"]] == [("quaternion", [4, 4])] * 2
    name = "net-quaternion-fresh" if "fresh" in more else "net-quaternion"
    back: Any = phnnify.load(f"{name}.safetensors", model=Small())
    assert report["params"]["after"] == sum(parameter.numel() for parameter in back.parameters())
    assert torch.equal(back.hidden.A, named_algebra("quaternion").A(torch.float32))


def test_an_algebra_of_ones_own_comes_from_a_file_and_goes_into_the_plan() -> None:
    Path("dual.json").write_text("[[[1, 0], [0, 1]], [[0, 0], [1, 0]]]")
    done(convert("--algebra", "dual.json"))
    done(command("inspect", "net.pt", "--arch", ARCH, "--algebra", "dual.json", "--plan", "p.toml"))
    assert 'algebra = "dual"' in Path("p.toml").read_text()
    Path("dual.json").unlink()
    done(convert("--plan", "p.toml", "-o", "planned.safetensors"))
    one, other = (phnnify.load(f"{name}.safetensors", model=Small()) for name in ("net-dual", "planned"))
    assert same_tensors(one.state_dict(), other.state_dict())


def test_a_shared_algebra_is_counted_once_and_survives_distillation() -> None:
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((64, 16), dtype=np.float32))
    arguments = ("--share-algebra", "--data", "x.npz", "--distill", "--steps", 3, "--rate", 1e-2, "--json")
    report = json.loads(done(convert(*arguments)).out)
    back: Any = phnnify.load("net-n2.safetensors", model=Small())
    assert [layer["algebra"] for layer in report["layers"]] == ["shared"] * 2
    assert report["params"]["after"] == sum(parameter.numel() for parameter in back.parameters())
    before: Any = phnnify.convert(small(), 2, share_algebra=True, data="x.npz").model
    assert back.hidden.A is back.head.A
    assert not torch.equal(back.hidden.A, before.hidden.A)


def test_a_fixed_algebra_survives_distillation() -> None:
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((64, 16), dtype=np.float32))
    arguments = ("--data", "x.npz", "--distill", "--steps", 3, "--rate", 1e-2)
    done(command("convert", "net.pt", "--arch", ARCH, "--algebra", "quaternion", *arguments))
    back: Any = phnnify.load("net-quaternion.safetensors", model=Small())
    before: Any = phnnify.convert(small(), algebra="quaternion", data="x.npz").model
    assert torch.equal(back.hidden.A, named_algebra("quaternion").A(torch.float32))
    assert not torch.equal(back.hidden.S, before.hidden.S)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init", "fresh", "--data", "x.npz"), "--data has no meaning with --init fresh"),
        (("--init", "warm"), "--init 'warm' is neither fit nor fresh"),
        (("--algebra", "quaternion"), "quaternion algebra has dimension 4, not 2"),
        (("--algebra", "hyper"), "'hyper' is no algebra"),
        (("--algebra", "complex", "--share-algebra"), "--share-algebra has no meaning with --algebra"),
        (("--algebra", "complex", "--low-rank", "0.5"), "--low-rank 0.5 has no meaning"),
    ],
)
def test_algebras_that_cannot_mean_anything_are_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    failed(convert(*arguments), 2, message)
    assert here() == set()


def test_inspect_shows_what_a_converted_network_has_learned() -> None:
    done(convert("-o", "small.safetensors"))
    outcome = done(
        command("inspect", "--algebra", "small.safetensors", "--include", "hid*", "--plot", "a.svg")
    )
    assert re.search(r"hidden +learned +2×2 +2 +0.707", outcome.out)
    assert "split-complex" in outcome.out
    assert "head" not in outcome.out
    assert outcome.err == "wrote a.svg\n"
    assert "hidden (learned)" in Path("a.svg").read_text()
    found = json.loads(done(command("inspect", "--algebra", "small.safetensors", "--json")).out)["algebras"]
    assert [entry["layers"] for entry in found] == [["hidden"], ["head"]]
    assert "quaternion" in done(command("inspect", "--algebra", "quaternion")).out
    done(command("inspect", "--algebra", "quaternion", "--quiet", "--plot", "a.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "MODEL is missing"),
        (("module.pt", "--plot", "a.svg"), 2, "--plot draws algebras, not plans"),
        (("--algebra", "module.pt"), 1, "module.pt is not converted"),
        (("--algebra", "quaternion", "--plot", "a.pdf"), 2, "cannot tell what to draw to a.pdf"),
        (("--algebra", "quaternion", "--plot", "gone/a.svg"), 1, "there is no folder gone"),
        (("--algebra", "gone.safetensors"), 1, "gone.safetensors"),
    ],
)
def test_there_is_nothing_to_look_at(arguments: tuple[str, ...], code: int, message: str) -> None:
    failed(command("inspect", *arguments), code, message)
    assert here() == set()
