"""The exceptions a user can meet."""

from __future__ import annotations

import pytest

from phnnify import PhnnifyError, cli, errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_except_clause_catches_every_kind(kind: type[Exception]) -> None:
    assert issubclass(kind, PhnnifyError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_carries_its_message_and_a_hint_where_there_is_one(kind: type[PhnnifyError]) -> None:
    assert (str(kind("what came")), kind("what came").hint) == ("what came", None)
    assert kind("what came", hint="what to do").hint == "what to do"


@pytest.mark.parametrize("kind", KINDS)
def test_only_wrong_usage_ends_with_code_2(
    kind: type[PhnnifyError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise kind("what came", hint="what to do")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == (2 if kind is errors.UsageError else 1)
    assert capsys.readouterr() == ("", "error: what came\n\nhint: what to do\n")


def test_wrong_usage_is_a_value_error_and_an_untrusted_file_a_file_error() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.UntrustedError, errors.FileError)
