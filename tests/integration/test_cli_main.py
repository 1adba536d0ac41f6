from __future__ import annotations

import errno

import pytest

from volseg.cli import main
from volseg.cli.main import volseg


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "volseg --help"),
        (["infer"], "volseg infer --help"),
        (["train", "x", "--epochs", "zero"], "volseg train --help"),
        (["infer", "x", "--no-such-option"], "--no-such-option"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    _, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err.count("\n") == 1
    assert err.startswith("volseg: error: ")
    assert words in err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out.nii.gz"), 1, "out.nii.gz: no space left"),
        (ZeroDivisionError("two\nlines"), 1, "ZeroDivisionError: two lines (run again with --debug"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_unforeseen_errors_are_one_line_without_traceback(error, code, words, capsys, monkeypatch):
    def broken(**_: object) -> None:
        raise error

    monkeypatch.setattr(volseg, "main", broken)
    with pytest.raises(SystemExit) as ended:
        main(["infer", "x"])
    _, err = capsys.readouterr()
    assert ended.value.code == code
    assert err.count("\n") == 1
    assert words in err


def test_debug_shows_the_traceback(monkeypatch):
    def broken(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(volseg, "main", broken)
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "infer", "x"])
