"""What several tests share."""

from __future__ import annotations

from typing import Any

import pytest

from converters.cli import main


@pytest.fixture
def calif(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line; returns exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call
