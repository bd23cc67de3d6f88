"""Which of two networks to take."""

from __future__ import annotations

import pytest

from phnnify.comparing.verdict import judge
from phnnify.evaluate import Agreement, Evaluation
from tests.compared import judged, times

SMALLER = 4000 / 1100
FASTER = (
    times("PyTorch", 1, 2e-3, 2.0),
    times("PyTorch", 8, 4e-3, 1.0),
    times("ONNX Runtime", 1, 1e-4, 3.0),
    times("ONNX Runtime", 8, 3e-4, 1.1),
)
AS_FAST = (times("PyTorch", 1, 2e-3, 1.0),)
SLOWER = (times("PyTorch", 1, 2e-3, 0.5), times("PyTorch", 8, 2e-3, 0.8))
AS_GOOD = judged(0.9, 0.897)


def test_smaller_and_faster_without_a_loss_is_taken() -> None:
    found = judge(SMALLER, FASTER, AS_GOOD)
    assert found.decision == "take"
    assert found.words("net.pt", "net-n4.pt") == (
        "Take B (net-n4.pt): it is 3.6 times smaller; is faster in PyTorch at batch 1 (2.00 times as fast); "
        "is faster in ONNX Runtime at batch 1, 8 (3.00, 1.10 times as fast)."
    )


def test_what_is_neither_smaller_nor_faster_is_not_taken() -> None:
    found = judge(1.0, AS_FAST, AS_GOOD)
    assert found.decision == "keep"
    assert found.words("a", "b") == "Keep A (a): B (b) gains nothing that was measured."


def test_a_loss_beside_a_gain_is_a_trade_and_both_are_named() -> None:
    found = judge(SMALLER, SLOWER, judged(0.9, 0.88))
    assert found.decision == "trade"
    assert found.words("a", "b") == (
        "A trade: B (b) is 3.6 times smaller; but it is slower in PyTorch at batch 1, 8 "
        "(0.50, 0.80 times as fast); loses 2.0 points of accuracy, from 90.0% to 88.0% on 1,000 inputs."
    )


def test_a_large_loss_of_accuracy_decides_whatever_else_is_gained() -> None:
    found = judge(SMALLER, FASTER, judged(0.9, 0.3))
    assert found.decision == "keep"
    words = found.words("a", "b")
    assert words.startswith("Keep A (a): B (b) loses 60.0 points of accuracy")
    assert words.endswith("though it " + "; ".join(found.gains) + ".")


@pytest.mark.parametrize(
    ("evaluation", "decision"),
    [
        (judged(0.9, 0.891), "take"),
        (judged(0.9, 0.889), "trade"),
        (judged(0.9, 0.851), "trade"),
        (judged(0.9, 0.849), "keep"),
        (judged(0.5, 0.9), "take"),
        (Evaluation(Agreement(10, 0.96, 0.1, 0.2), None), "take"),
        (Evaluation(Agreement(10, 0.94, 0.1, 0.2), None), "trade"),
        (Evaluation(Agreement(10, 0.74, 0.1, 0.2), None), "keep"),
        (Evaluation(Agreement(10, None, None, 0.04), None), "take"),
        (Evaluation(Agreement(10, None, None, 0.06), None), "trade"),
        (Evaluation(Agreement(10, None, None, 0.26), None), "keep"),
        (None, "take"),
    ],
)
def test_the_limits_are_those_of_the_rule(evaluation: Evaluation | None, decision: str) -> None:
    assert judge(SMALLER, FASTER, evaluation).decision == decision


def test_a_larger_file_is_a_loss() -> None:
    found = judge(1000 / 1500, FASTER, AS_GOOD)
    assert "is 1.5 times larger" in found.losses
    assert found.decision == "trade"


def test_a_file_of_unknown_size_speaks_neither_for_nor_against() -> None:
    found = judge(None, AS_FAST, AS_GOOD)
    assert (found.gains, found.losses) == ((), ())
