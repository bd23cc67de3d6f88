"""Networks of Hugging Face folders: which class, which configuration. Alone imports transformers.

Only the description is read by transformers. The tensors come from `folders`, and are handed over: so no file
is looked for anywhere else, and a folder with code in it stays a folder with text in it unless trusted. While
transformers works, it is silent and offline.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import FileError, ModelError, UntrustedError, UsageError
from phnnify.folders import CONFIG, entries, read_description
from phnnify.hollow import hollow
from phnnify.measure import first_line
from phnnify.offline import offline
from phnnify.weights import tied_names

_OLDEST = (4, 48)
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})
_FETCHED = ("attn_implementation", "experts_implementation")  # may name code that is downloaded
_GENERATION = "generation_config.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_network(folder: Path, tensors: Mapping[str, Tensor], *, trust: bool = False) -> nn.Module:
    """The network that a folder describes, with its weights in their own precision; in eval mode.

    Args:
        folder: A Hugging Face folder.
        tensors: Its weights by name.
        trust: Let Python code in the folder run.

    Raises:
        FileError: the description is damaged, or of a network that transformers does not have.
        UntrustedError: the folder needs `trust`.
        ModelError: the weights are not those of the network.
    """

    def build(kind: Any, config: Any, precision: dict[str, Any]) -> Any:
        return kind.from_pretrained(
            None, config=config, state_dict=dict(tensors), output_loading_info=True,
            ignore_mismatched_sizes=True, local_files_only=True, **precision,
        )  # fmt: skip

    model, told = _built(folder, build, _main_dtype(folder, tensors), trust)
    missing = set(told["missing_keys"])
    missing -= {name for group in tied_names(model) if not missing >= set(group) for name in group}
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in told["mismatched_keys"]]
    faults = [*_named("missing", missing), *_named("of another shape", mismatched), *told["error_msgs"][:1]]
    if faults:
        raise ModelError(
            f"the weights in {folder} do not fit {type(model).__name__}: {'; '.join(faults)}",
            hint=f"{CONFIG} must describe exactly the network that the weights were trained in",
        )
    return model


def fresh_network(folder: Path, tensors: Mapping[str, Tensor], *, trust: bool = False) -> nn.Module:
    """The network that a converted folder describes, each parameter in its precision there, without data.

    Args:
        folder: A Hugging Face folder.
        tensors: The converted network's, by name.
        trust: Let Python code in the folder run.

    Raises:
        FileError, UntrustedError, ModelError: as `read_network`.
    """
    model, _ = _built(folder, _hollow, _main_dtype(folder, tensors), trust)
    for name, parameter in model.named_parameters():
        stored = tensors.get(name, tensors.get(f"{name.removesuffix('.weight')}.S"))
        if stored is not None:
            parameter.data = parameter.data.to(stored.dtype)
    return model


def empty_network(folder: Path, *, trust: bool = False) -> nn.Module:
    """The network that a folder describes, without data (`hollow`), in eval mode.

    Raises:
        FileError, UntrustedError, ModelError: as `read_network`.
    """
    return _built(folder, _hollow, torch.float32, trust)[0]


def is_described(model: nn.Module) -> bool:
    """Whether a network has a configuration that a folder could describe it by."""
    return callable(getattr(getattr(model, "config", None), "save_pretrained", None))


def check_described(model: nn.Module) -> None:
    """Refuse a network that a folder's description would not give back.

    Raises:
        UsageError: its class is not one of transformers', nor from a folder with code.
    """
    kind = type(model)
    if kind.__module__.split(".")[0] == "transformers_modules":
        return
    if _known_class(_transformers(), kind.__name__) is not kind:
        raise UsageError(
            f"a folder cannot hold a {kind.__qualname__}: transformers has no such network",
            hint="write a .safetensors file instead: phnnify.load(path, model=...) reads it",
        )


def write_description(model: Any, folder: Path) -> None:
    """Write the configuration of a network, and that of its generation unless it lies there already.

    Raises:
        FileError: they cannot be written.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "_attn_implementation_autoset"):  # of versions before 5, where it would be written
        config._attn_implementation_autoset = False
    generation = getattr(model, "generation_config", None)
    try:
        with _undisturbed(_transformers()):
            config.save_pretrained(folder)
            if generation is not None and not (folder / _GENERATION).exists():
                generation.save_pretrained(folder)
    except Exception as error:  # whatever the checks of each version may raise
        raise FileError(f"transformers cannot write the configuration: {first_line(error)}") from None


def needs_code(folder: Path) -> bool:
    """Whether the class of a folder's network is in Python code beside it."""
    return any(key in _CODE_KEYS for key, _ in entries(read_description(folder)))


def _hollow(kind: Any, config: Any, precision: dict[str, Any]) -> Any:
    with hollow():
        return kind._from_config(config, **precision), None  # what AutoModel.from_config calls


def _built(
    folder: Path, build: Callable[[Any, Any, dict[str, Any]], Any], dtype: torch.dtype, trust: bool
) -> tuple[nn.Module, Any]:
    """The network and what was told, as built from its class, its configuration, and how to say its dtype."""
    described = read_description(folder)
    _check_described(folder, described, trust)
    transformers = _transformers()
    with _undisturbed(transformers):
        config, kind = _class_and_config(transformers, folder, described, trust)
        precision = {"dtype" if _version(transformers) >= (5, 0) else "torch_dtype": dtype}
        try:
            model: Any
            model, told = build(kind, config, precision)
        except (Exception, SystemExit) as error:  # whatever each network's own checks may raise
            raise ModelError(f"{folder} does not describe a {kind.__name__}: {first_line(error)}") from None
        model.config.name_or_path = described.get("_name_or_path") or ""
        if (folder / _GENERATION).exists() and getattr(model, "generation_config", None) is not None:
            try:
                model.generation_config = transformers.GenerationConfig.from_pretrained(
                    str(folder.resolve()), local_files_only=True
                )
            except Exception as error:  # damaged, or refused by the checks of this version
                raise FileError(f"{folder / _GENERATION} cannot be read: {first_line(error)}") from None
    network: nn.Module = model.eval()
    return network, told


def _check_described(folder: Path, described: dict[str, Any], trust: bool) -> None:
    for key, value in entries(described):
        code = key in _CODE_KEYS or (key.endswith(_FETCHED) and "/" in str(value))
        if code and value and not trust:
            raise UntrustedError(
                f"{folder} needs code that is not part of transformers: {key} in its {CONFIG}",
                hint="if you trust its origin, --trust lets the Python files in it run",
            )
        if key == "quantization_config" and value:
            raise FileError(
                f"{folder} holds quantized weights ({key} in its {CONFIG})",
                hint="give the folder of the network before it was quantized",
            )


def _class_and_config(
    transformers: Any, folder: Path, described: dict[str, Any], trust: bool
) -> tuple[Any, Any]:
    names = described.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise FileError(f"{folder / CONFIG} is damaged: architectures is no list of names")
    name = names[0] if names else None
    kind = _own_class(folder, described, name) if trust else None
    kind = kind or (name and _known_class(transformers, name))
    if name and not kind:
        raise FileError(
            f"{folder / CONFIG} asks for {name[:80]}, no network of transformers {transformers.__version__}",
            hint="a newer transformers may have it: pip install -U transformers",
        )
    if not kind and not described.keys() & {"model_type", "auto_map"}:  # a guess by the folder's name follows
        raise FileError(f"{folder / CONFIG} is damaged: it names no network")
    try:
        reader = transformers.AutoConfig if "model_type" in described or not kind else kind.config_class
        config = reader.from_pretrained(
            str(folder.resolve()), local_files_only=True, **({"trust_remote_code": True} if trust else {})
        )
    except (Exception, SystemExit) as error:  # each configuration checks in its own way
        raise FileError(f"{folder / CONFIG} cannot be used: {first_line(error)}") from None
    kind = kind or _base_class(transformers, config)
    if kind is None or not isinstance(config, kind.config_class):
        raise FileError(f"{folder / CONFIG} is damaged: {name} is no network of its model_type")
    return config, kind


def _known_class(transformers: Any, name: str) -> Any:
    """A network of transformers by the name of its class; None where that is something else, or nothing."""
    try:
        kind = getattr(transformers, name, None)
    except Exception:  # its module needs a library that is not there
        return None
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None


def _base_class(transformers: Any, config: Any) -> Any:
    """What AutoModel takes for a configuration."""
    kind = transformers.MODEL_MAPPING.get(type(config), None)
    return kind[0] if isinstance(kind, (tuple, list)) else kind


def _own_class(folder: Path, described: dict[str, Any], name: str | None) -> Any:
    """The class that a trusted folder brings along."""
    places = described.get("auto_map")
    places = places if isinstance(places, dict) else {}
    wanted = [
        str(at) for key, at in places.items() if str(at).rpartition(".")[2] == name or key == "AutoModel"
    ]
    wanted.sort(key=lambda at: at.rpartition(".")[2] != name)
    if not wanted:
        return None
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        return get_class_from_dynamic_module(wanted[0], str(folder.resolve()), local_files_only=True)
    except (Exception, SystemExit) as error:  # whatever the folder's own code may raise
        raise FileError(f"the code in {folder} cannot be imported: {first_line(error)}") from None


def _main_dtype(folder: Path, tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The precision of most of the weights."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    dtype = sizes.most_common(1)[0][0] if sizes else torch.float32
    if dtype not in _DTYPES:
        raise FileError(f"{folder} holds weights in {str(dtype).removeprefix('torch.')}, which are quantized")
    return dtype


def _named(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{len(names)} {what} ({', '.join(names[:3])}{more})"] if names else []


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        transformers = None
    if transformers is None or _version(transformers) < _OLDEST:
        found = f"version {transformers.__version__} is installed" if transformers else "it is not installed"
        raise FileError(
            f"Hugging Face folders need transformers {'.'.join(map(str, _OLDEST))} or newer; {found}",
            hint="pip install 'phnnify[transformers]'",
        )
    return transformers


def _version(transformers: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in str(transformers.__version__).split(".")[:2])


@contextmanager
def _undisturbed(transformers: Any) -> Iterator[None]:
    """While it lasts, transformers says nothing, asks no server, and draws from no one's random numbers."""
    talk = transformers.utils.logging
    level, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), offline():
        warnings.simplefilter("ignore")
        talk.set_verbosity(talk.CRITICAL)
        talk.disable_progress_bar()
        try:
            yield
        finally:
            talk.set_verbosity(level)
            if bars:
                talk.enable_progress_bar()
