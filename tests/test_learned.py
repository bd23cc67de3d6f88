"""What algebras a file has, and how near they are to those with a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import phnnify
from phnnify.algebras import named_algebra
from phnnify.errors import FileError, PlanError, UsageError
from phnnify.layers import PHMLinear
from phnnify.learned import Found, chosen, find_algebras, panels, to_json
from tests.networks import sequence, small

FORMS = [("net.safetensors", small), ("net.pt", sequence)]


@pytest.mark.parametrize(("name", "make"), FORMS, ids=["tensors", "module"])
def test_each_learned_algebra_is_found_with_its_weight(name: str, make: object, tmp_path: Path) -> None:
    assert callable(make)
    result = phnnify.convert(make(), 4, init="fresh")
    phnnify.save(result.model, tmp_path / name)
    found = find_algebras(str(tmp_path / name))
    assert [each.layers for each in found] == [(layer,) for layer in result.plan.conversions]
    for each in found:
        assert torch.equal(each.A, result.model.get_submodule(each.layers[0]).A)  # type: ignore[arg-type]
        assert each.kind == "learned"
        assert list(each.distances.values()) == sorted(each.distances.values())
        assert set(each.distances) == {"quaternion", "tessarine", "cyclic"}


@pytest.mark.parametrize(("name", "make"), FORMS, ids=["tensors", "module"])
@pytest.mark.parametrize("algebra", ["quaternion", None])
def test_one_algebra_of_many_weights_is_shown_once(
    name: str, make: object, algebra: str | None, tmp_path: Path
) -> None:
    assert callable(make)
    result = phnnify.convert(make(), algebra=algebra, share_algebra=algebra is None)
    phnnify.save(result.model, tmp_path / name)
    (found,) = find_algebras(str(tmp_path / name))
    assert found.layers == tuple(result.plan.conversions)
    assert found.title == f"{found.layers[0]} and 1 more"
    assert found.kind == (algebra or "shared")
    assert (found.distances["quaternion"] < 1e-6) == (algebra is not None)


def test_a_name_and_a_file_of_constants_stand_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "dual.json").write_text("[[[1, 0], [0, 1]], [[0, 0], [1, 0]]]")
    (dual,) = find_algebras(str(tmp_path / "dual.json"))
    assert (dual.title, dual.layers) == ("dual", ())
    assert dual.distances["complex"] == pytest.approx(0.5)  # one direction is common, the other half so
    (cyclic,) = find_algebras("cyclic", 3)
    assert cyclic.distances == {"cyclic": pytest.approx(0, abs=1e-6)}
    with pytest.raises(UsageError, match="dimension 4, not 3"):
        find_algebras("quaternion", 3)


def test_a_form_that_no_named_algebra_has_has_no_distances() -> None:
    found = Found(("a",), "learned", torch.randn(3, 4, 3))
    assert found.distances == {}
    assert found.random == pytest.approx((1 - 3 / 12) ** 0.5)


def test_a_file_that_is_not_converted_is_refused(tmp_path: Path) -> None:
    torch.save(sequence(), tmp_path / "net.pt")
    with pytest.raises(FileError, match=r"net.pt is not converted"):
        find_algebras(str(tmp_path / "net.pt"))
    with pytest.raises(FileError, match="gone"):
        find_algebras(str(tmp_path / "gone.pt"))


def test_layers_that_a_plan_could_not_describe_are_shown_one_by_one(tmp_path: Path) -> None:
    layers = [PHMLinear(8, 8, n=2) for _ in range(5)]
    layers[1].A, layers[3].A = layers[0].A, layers[2].A
    layers[4].fix_algebra()
    phnnify.save(nn.Sequential(*layers), tmp_path / "net.pt")
    found = find_algebras(str(tmp_path / "net.pt"))
    assert [each.kind for each in found] == ["learned"] * 4 + ["fixed"]


def some() -> list[Found]:
    H = named_algebra("quaternion").A()
    mixed = torch.einsum("rs,sij->rij", torch.randn(4, 4, dtype=torch.float64) + 3 * torch.eye(4), H)
    return [Found(("a.x",), "learned", mixed), Found(("a.y", "b.y"), "shared", torch.randn(4, 4, 4))]


def test_weights_are_chosen_by_name() -> None:
    torch.manual_seed(0)
    first, second = some()
    assert chosen([first, second], [], []) == (first, second)
    assert chosen([first, second], ["b.*"], []) == (second,)
    assert chosen([first, second], [], ["a.*"]) == (second,)
    with pytest.raises(PlanError, match="no algebra is of such a weight") as caught:
        chosen([first, second], ["c"], [])
    assert caught.value.hint == "names look like a.x, a.y and 1 more"


def test_what_resembles_a_named_algebra_is_drawn_as_that_too() -> None:
    torch.manual_seed(0)
    first, second = some()
    rows = panels([first, second])
    assert [title for title, _ in rows] == [
        "a.x (learned)",
        "a.x, combined to be nearest to quaternion",
        "a.y and 1 more (shared)",
    ]
    torch.testing.assert_close(rows[1][1], named_algebra("quaternion").A())


def test_all_of_it_is_json() -> None:
    torch.manual_seed(0)
    (entry, _) = json.loads(to_json(some()))["algebras"]
    assert entry["layers"] == ["a.x"]
    assert (entry["order"], entry["terms"]) == ([4, 4], 4)
    assert entry["distances"]["quaternion"] < 1e-6
    assert torch.tensor(entry["A"]).shape == (4, 4, 4)
