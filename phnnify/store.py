"""Writing converted networks, and reading them back.

A converted network goes out in one of four forms. A `.safetensors` file holds the tensors, and the plan in
its metadata: `load` applies the plan to a fresh network of the user's class and fills it, without unpickling
anything. A Hugging Face folder holds such a file and says itself which network it belongs to. A `.pt` file
holds the pickled module. A `.pt2` file is a program that plain torch runs; it cannot be read as a converted
network again.
"""

from __future__ import annotations

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from phnnify import folders, hub
from phnnify.archive import Content, read_content
from phnnify.capture import write_program
from phnnify.errors import FileError, UsageError
from phnnify.files import check_target, is_folder, replacing, replacing_folder
from phnnify.folders import METADATA_KEY
from phnnify.hyper.file import HYPER_KEY, describe_hyper, inner_network, rebuild_hyper
from phnnify.hyper.network import HyperNetwork
from phnnify.inputs import Inputs, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import first_line
from phnnify.plan import Plan
from phnnify.plan_file import plan_json
from phnnify.plan_shown import plan_of
from phnnify.rebuild import rebuild
from phnnify.weights import tied_names

PICKLED = (".pt", ".pth", ".bin")
PROGRAM = ".pt2"
ENDINGS = (".safetensors", *PICKLED, PROGRAM)


def size_of(path: Path) -> int:
    """The bytes of a model file, or of all weight files of a folder.

    Raises:
        FileError: the folder has no weights.
    """
    return folders.weight_bytes(path) if is_folder(path) else path.stat().st_size


def save(
    model: nn.Module,
    path: str | Path,
    plan: Plan | None = None,
    *,
    original: str | Path | None = None,
    inputs: Inputs | None = None,
) -> str | None:
    """Write a converted network or a hypernetwork, all or nothing. Same network, same bytes.

    Args:
        model: A network with PHM layers, or a hypernetwork (which goes into a `.safetensors` file). Of any
            other, nothing but the weights is written there.
        path: `.safetensors` (tensors and plan), or `.pt`, `.pth`, `.bin` (the pickled module), or for one of
            transformers' networks a name without an ending (a Hugging Face folder; `from_pretrained`).
        plan: The plan that it (a hypernetwork: the network inside) was made by, reasons included; by default
            read off its layers.
        original: For a folder: the one that the original came from, whose small files (tokenizer,
            preprocessor, README) are copied.
        inputs: For a `.pt2` file, a program that plain torch runs: what the network takes.

    Returns:
        What to know about the file, such as that a `.pt2` takes one length only; mostly nothing.

    Raises:
        UsageError: the ending says none of these, or there are no inputs.
        FileError: the file cannot be written, or the module cannot be pickled.
        ExportError: torch.export cannot capture the network.
    """
    path = Path(path)
    check_ending(path, model)
    if path.suffix == PROGRAM:
        return write_program(model, path, read_inputs(inputs))
    if path.suffix in PICKLED:
        _save_module(model, path)
    elif path.suffix in ENDINGS:
        _save_tensors(model, path, _metadata(model, plan))
    else:
        _save_folder(model, path, plan or plan_of(model), Path(original) if original else None)
    return None


def check_ending(path: Path, model: nn.Module | None = None) -> None:
    """Refuse a converted network's path before any work is done.

    Args:
        path: Where it is to go.
        model: What it is made from, once that is known: a name without an ending is for networks of
            transformers only.

    Raises:
        UsageError: an ending other than those in ENDINGS, or none where one is needed.
    """
    if isinstance(model, HyperNetwork) and path.suffix not in (ENDINGS[0], PROGRAM):
        raise UsageError(f"cannot write a hypernetwork to {path}", hint="its ending is .safetensors")
    if path.suffix in ENDINGS:
        return
    if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) or not (model is None or hub.is_described(model)):
        raise UsageError(f"cannot tell what to write to {path}", hint=f"endings: {', '.join(ENDINGS)}")
    if model is not None:
        hub.check_described(model)


def check_output(path: Path) -> None:
    """Refuse a converted network's path where it cannot be written, before any work is done.

    Raises:
        FileError: something stands there that is not replaced, or its folder does not exist.
    """
    check_target(path, replaces=folders.is_converted if path.suffix not in ENDINGS else None)


def _metadata(model: nn.Module, plan: Plan | None) -> dict[str, str]:
    followed = plan or plan_of(inner_network(model))
    if isinstance(model, HyperNetwork):
        return {HYPER_KEY: describe_hyper(model, followed)}
    return {METADATA_KEY: plan_json(followed)} if plan or followed.conversions else {}


def _save_tensors(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    state = model.state_dict()
    names = [group[0] for group in tied_names(model)]
    extra = [name for name in names if not isinstance(state[name], torch.Tensor)]
    if extra:
        raise FileError(f"{extra[0]} is not a tensor, which safetensors cannot hold", hint="write a .pt file")
    try:
        # Copies: views of one storage would be refused.
        tensors = {name: state[name].clone(memory_format=torch.contiguous_format) for name in names}
        data = safetensors.torch.save(tensors, metadata=metadata)
    except Exception as error:  # sparse, quantized or meta tensors, complex128: each raises something else
        raise FileError(
            f"the network has a tensor that safetensors cannot hold: {first_line(error)}",
            hint="write a .pt file",
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _save_folder(model: nn.Module, path: Path, plan: Plan, original: Path | None) -> None:
    with replacing_folder(path, folders.is_converted) as temporary:
        if original is not None:
            folders.copy_companions(original, temporary, code=hub.needs_code(original))
        hub.write_description(model, temporary)
        _save_tensors(model, temporary / folders.WEIGHTS, _metadata(model, plan))


def _save_module(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:  # an open file: torch would put a file's name into its bytes
                torch.save(model, file)
        except (OSError, FileError):
            raise
        except Exception as error:  # whatever pickling the user's own classes may raise
            if isinstance(error.__context__, OSError):  # torch's writer says only that its file is wrong
                raise error.__context__ from None
            raise FileError(
                f"the network cannot be pickled: {first_line(error)}",
                hint="write a .safetensors file instead: phnnify.load(path, model=...) needs no pickle",
            ) from None


def load(path: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Read a converted network or a hypernetwork back; inverse of `save`.

    Args:
        path: A file or folder that `save`, `phnnify convert` or `phnnify hyper` wrote.
        model: A network of the original's class, for a `.safetensors` file. It is not changed.
        trust: For a pickled module with classes that are neither torch's nor phnnify's, or a folder with its
            class in Python code: let them load.

    Returns:
        The network, in eval mode.

    Raises:
        FileError: the file is not a converted network or a hypernetwork.
        UntrustedError: the file needs `trust`.
        ModelError, PlanError: the network given does not fit the file.
    """
    path = Path(path)
    return converted_of(read_stored(path, trust=trust), path, model, trust=trust)


def converted_of(
    content: Content, path: Path, model: nn.Module | None = None, *, trust: bool = False
) -> nn.Module:
    """The converted network, as `load` gives it, of a file or folder whose content was read already."""
    if content.module is not None:
        if not has_phm(content):
            raise FileError(f"{path} holds a network that is not converted", hint="torch.load reads it")
        return content.module.eval()
    if METADATA_KEY not in content.metadata and HYPER_KEY not in content.metadata:
        if is_folder(path):
            raise FileError(f"{path} holds a network that is not converted", hint="transformers reads it")
        raise FileError(f"{path} holds weights that phnnify did not write")
    if model is None and is_folder(path):
        model = hub.fresh_network(path, content.tensors, trust=trust)
    if model is None:
        raise FileError(
            f"{path} holds weights and a plan; the network's class is needed too",
            hint="phnnify.load(path, model=Net()), or --arch on the command line",
        )
    if HYPER_KEY in content.metadata:
        return rebuild_hyper(model, content, str(path)).eval()
    return rebuild(model, content, str(path)).eval()


def from_pretrained(folder: str | Path, *, trust: bool = False) -> nn.Module:
    """Open a Hugging Face folder that `save` or `phnnify convert` wrote, as transformers' own network.

    Args:
        folder: With the configuration in `config.json`, and the tensors and the plan in `model.safetensors`.
        trust: Let Python code in the folder run, where its network's class is there.

    Returns:
        The converted network, in eval mode.

    Raises:
        FileError: the folder is not a converted network, or transformers is not installed.
        UntrustedError: the folder needs `trust`.
        ModelError, PlanError: the weights do not fit the network that it describes.
    """
    folder = Path(folder)
    folders.read_description(folder)
    return converted_of(folders.read_folder(folder, trust=trust), folder, trust=trust)


def read_stored(path: Path, *, trust: bool = False) -> Content:
    """What a file or a Hugging Face folder holds; see `archive.read_content` and `folders.read_folder`."""
    if not is_folder(path):
        return read_content(path, trust=trust)
    folders.read_description(path)  # a folder of something else is told apart first
    return folders.read_folder(path, trust=trust)


def has_phm(content: Content) -> bool:
    """Whether it is a whole module that is converted."""
    return content.module is not None and any(isinstance(m, PHMLayer) for m in content.module.modules())
