"""What a command line left behind: (exit status, standard output, standard error), as the `run` fixture returns it."""

from __future__ import annotations


def done(outcome: tuple[int, str, str]) -> str:
    """Standard output of a command that worked and had nothing to say on standard error."""
    status, out, err = outcome
    assert (status, err) == (0, "")
    return out


def refused(outcome: tuple[int, str, str]) -> str:
    """The one line of a command that was refused."""
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert err.startswith("rooftrace: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("rooftrace: error: ").rstrip()
