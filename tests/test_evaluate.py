"""How well a converted network does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnnify import evaluate as module
from phnnify.batches import Batch
from phnnify.errors import FileError, ModelError
from phnnify.evaluate import Accuracy, Agreement, Evaluation, Examination, evaluate, output_change


class Fixed(nn.Module):
    """Gives the same table of outputs for input rows 0, 1, 2 …"""

    def __init__(self, table: Tensor, wrap: Any = lambda y: y) -> None:
        super().__init__()
        self.table, self.wrap = table, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.table[x])


Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Z = Y + 0.8 * torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(2))
ROWS = torch.arange(40)


def log_softmax(y: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    y64 = y.double().numpy()
    shifted: np.ndarray[Any, np.dtype[np.float64]] = y64 - np.log(np.exp(y64).sum(-1, keepdims=True))
    return shifted


def test_agreement_and_accuracy_are_numpys_over_all_batches() -> None:
    batches = [Batch((ROWS[:15],), targets=LABELS[:15]), Batch((ROWS[15:],), targets=LABELS[15:])]
    found = evaluate(Fixed(Y), Fixed(Z), batches)
    p, q = log_softmax(Y), log_softmax(Z)
    assert found.agreement.samples == 40
    assert found.agreement.top1 == (Y.argmax(1) == Z.argmax(1)).double().mean()
    assert found.agreement.kl == pytest.approx((np.exp(p) * (p - q)).sum(1).mean(), rel=1e-5)
    assert found.agreement.relative_error == pytest.approx(float((Z - Y).norm() / Y.norm()), rel=1e-6)
    assert found.accuracy is not None
    assert found.accuracy.metric == "top-1"
    assert found.accuracy.teacher == (Y.argmax(1) == LABELS).double().mean()
    assert found.accuracy.student == (Z.argmax(1) == LABELS).double().mean()
    assert found.accuracy.student_before is None


def test_sequences_are_judged_at_every_position() -> None:
    tokens, labels = ROWS.view(8, 5), LABELS.view(8, 5)
    found = evaluate(Fixed(Y), Fixed(Z), [Batch((tokens,), targets=labels)])
    assert found.accuracy is not None
    assert found.accuracy.student == (Z.argmax(1) == LABELS).double().mean()
    assert found.agreement.samples == 8


def test_without_labels_there_is_only_agreement() -> None:
    found = evaluate(Fixed(Y), Fixed(Y), [Batch((ROWS,))])
    assert found.accuracy is None
    assert (found.agreement.top1, found.agreement.relative_error) == (1.0, 0.0)
    assert found.agreement.kl == pytest.approx(0, abs=1e-6)


def test_single_numbers_have_an_error_only() -> None:
    found = evaluate(Fixed(Y[:, :1]), Fixed(Z[:, :1]), [Batch((ROWS,), targets=Y[:, 0])])
    assert found.agreement.top1 is None
    assert found.agreement.kl is None
    assert found.accuracy is None
    assert found.agreement.relative_error == pytest.approx(
        float((Z - Y)[:, 0].norm() / Y[:, 0].norm()), rel=1e-6
    )


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        Output,
        lambda y: (y, None),
        lambda y: [y],
        lambda y: {"loss": y.sum(), "logits": y},
        lambda y: {"a": y},
    ],
)
def test_the_main_output_is_found(wrap: Any) -> None:
    found = evaluate(Fixed(Y, wrap), Fixed(Z, wrap), [Batch((ROWS,))])
    assert found.agreement.relative_error == pytest.approx(float((Z - Y).norm() / Y.norm()), rel=1e-6)


def test_images_are_values_whatever_their_width() -> None:
    y, z = Y[:36, :4].reshape(2, 2, 6, 6), Z[:36, :4].reshape(2, 2, 6, 6)
    found = evaluate(Fixed(y), Fixed(z), [Batch((ROWS[:2],))])
    assert (found.agreement.top1, found.agreement.kl) == (None, None)
    assert found.agreement.distance == pytest.approx(float((z - y).norm() / y.norm()), rel=1e-6)


def test_classes_of_pixels_are_along_the_axis_that_their_labels_lack() -> None:
    y, z = Y[:36, :4].reshape(1, 4, 6, 6), Z[:36, :4].reshape(1, 4, 6, 6)
    labels = LABELS[:36].clamp_max(3).view(1, 6, 6)
    found = evaluate(Fixed(y), Fixed(z), [Batch((ROWS[:1],), targets=labels)])
    assert found.accuracy is not None
    assert found.accuracy.student == (z.argmax(1) == labels).double().mean()
    assert found.agreement.top1 == (y.argmax(1) == z.argmax(1)).double().mean()


@pytest.mark.parametrize("wrap", [lambda y: None, lambda y: (), lambda y: "text"])
def test_outputs_that_cannot_be_compared_are_refused(wrap: Any) -> None:
    with pytest.raises(ModelError, match="cannot be compared"):
        evaluate(Fixed(Y, wrap), Fixed(Z, wrap), [Batch((ROWS,))])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 3, "a label 7; the network knows 0 to 4"),
        (LABELS - 9, "a label -9"),
        (LABELS[:39], "39 labels for 40"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, words: str) -> None:
    with pytest.raises(FileError, match=words):
        evaluate(Fixed(Y), Fixed(Z), [Batch((ROWS,), targets=labels)])


def test_no_samples_are_refused() -> None:
    with pytest.raises(FileError, match="no samples"):
        evaluate(Fixed(Y), Fixed(Z), [])


def test_the_change_of_an_answer_is_a_divergence_or_a_squared_error() -> None:
    y, y_hat = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    p, q = y.double().softmax(-1), y_hat.double().softmax(-1)
    wanted = float((p * (p / q).log()).sum(-1).mean())
    assert output_change(y, y_hat) == pytest.approx(wanted, rel=1e-4)
    single = torch.tensor([[3.0], [4.0]])
    assert output_change(single, single + torch.tensor([[1.0], [0.0]])) == pytest.approx(1 / 25)
    assert output_change(single, single) == 0


def test_what_is_lost_is_accuracy_else_agreement_else_error() -> None:
    agreement = Agreement(10, 0.75, 0.1, 0.3)
    assert Evaluation(agreement, Accuracy("top-1", 0.9, 0.85)).drop == pytest.approx(0.05)
    assert Evaluation(agreement, None).drop == 0.25
    assert Evaluation(Agreement(10, None, None, 0.3), None).drop == 0.3


def test_an_examination_finds_what_an_evaluation_finds() -> None:
    batches = [Batch((ROWS[:15],), targets=LABELS[:15]), Batch((ROWS[15:],), targets=LABELS[15:])]
    examination = Examination(Fixed(Y), batches)
    for student in (Fixed(Z), Fixed(Y)):
        assert examination(student) == evaluate(Fixed(Y), student, batches)


def test_an_examination_asks_the_original_once_and_remembers_only_so_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = [Batch((ROWS[start : start + 10],)) for start in range(0, 40, 10)]
    monkeypatch.setattr(module, "_ANSWERS", 15 * 5 * 4)
    assert Examination(Fixed(Y), batches)(Fixed(Z)).agreement.samples == 20
    with pytest.raises(FileError, match="holds no samples"):
        Examination(Fixed(Y), [])


def test_a_student_is_judged_by_the_best_that_is_known() -> None:
    labelled, plain = Batch((ROWS,), targets=LABELS), Batch((ROWS,))
    found = evaluate(Fixed(Y), Fixed(Z), [labelled])
    assert found.accuracy is not None
    assert found.merit == ("top-1", found.accuracy.student)
    found = evaluate(Fixed(Y), Fixed(Z), [plain])
    assert found.merit == ("agreement", found.agreement.top1)
    found = evaluate(Fixed(Y[:, :1]), Fixed(Z[:, :1]), [plain])
    assert found.merit == ("-error", -found.agreement.relative_error)


def test_what_a_student_could_before_goes_beside_what_it_can() -> None:
    batches = [Batch((ROWS,), targets=LABELS)]
    before, after = (evaluate(Fixed(Y), Fixed(table), batches) for table in (Z, Y))
    both = after.with_before(before).accuracy
    assert both is not None
    assert before.accuracy is not None
    assert (both.student, both.student_before) == (both.teacher, before.accuracy.student)
    unlabelled = evaluate(Fixed(Y), Fixed(Y), [Batch((ROWS,))])
    assert unlabelled.with_before(before) == unlabelled


def test_answers_that_are_not_finite_are_counted_and_told() -> None:
    strange = Y.clone()
    strange[3, 1], strange[30] = float("nan"), float("-inf")
    batches = [Batch((ROWS[:15],)), Batch((ROWS[15:],))]
    assert evaluate(Fixed(Y), Fixed(Z), batches).notes() == ()
    assert evaluate(Fixed(strange), Fixed(Z), batches).notes() == (
        "2 of the 40 answers of the original on the evaluation data are not finite: look at the data.",
    )
    assert evaluate(Fixed(strange), Fixed(strange), batches).notes("a.pt", "b.pt") == (
        "2 of the 40 answers of a.pt (and 2 of b.pt) on the evaluation data are not finite: look at the "
        "data.",
    )
    assert evaluate(Fixed(Y), Fixed(strange), batches).notes() == (
        "2 of the 40 answers of the converted network on the evaluation data are not finite, where those of "
        "the original are: do not use it as it is.",
    )


@pytest.mark.parametrize("shape", [(40,), (1, 40), (40, 1)])
def test_single_numbers_that_are_not_finite_are_counted_too(shape: tuple[int, ...]) -> None:
    strange = Y[:, 0].clone()
    strange[7] = float("nan")
    one = Fixed(strange, lambda y: y.reshape(shape))
    found = evaluate(one, one, [Batch((ROWS,))])
    assert found.not_finite == ((40, 40) if shape == (1, 40) else (1, 1))


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (LABELS.float(), "real numbers (float32)"),
        (LABELS.double()[:, None], "real numbers (float64)"),
        (nn.functional.one_hot(LABELS, 5).float(), "one-hot rows or shares of classes"),
        (Y.softmax(1), "one-hot rows or shares of classes"),
    ],
)
def test_labels_that_are_no_class_numbers_are_told(labels: Tensor, what: str) -> None:
    batches = [Batch((ROWS[:15],), targets=labels[:15]), Batch((ROWS[15:],), targets=labels[15:])]
    found = evaluate(Fixed(Y), Fixed(Z), batches)
    assert found.accuracy is None
    assert found.notes() == (
        f"No accuracy was measured: the labels are {what}; it needs class numbers, whole ones from 0.",
    )


def test_values_to_come_near_to_are_no_labels_of_classes() -> None:
    for y, z, targets in ((Y, Z, Y), (Y, Z, Z.abs()), (Y[:, :1], Z[:, :1], LABELS.float())):
        assert evaluate(Fixed(y), Fixed(z), [Batch((ROWS,), targets=targets)]).notes() == ()


def test_one_hot_rows_of_whole_numbers_are_refused_with_the_cure() -> None:
    rows = nn.functional.one_hot(LABELS, 5)
    with pytest.raises(FileError, match="200 labels for 40 outputs") as refused:
        evaluate(Fixed(Y), Fixed(Z), [Batch((ROWS,), targets=rows)])
    assert refused.value.hint == "of one-hot rows, take the class numbers: y.argmax(-1)"
