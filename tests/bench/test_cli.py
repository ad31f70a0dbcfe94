"""The command line of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli import _parser


def test_a_folder_to_keep_must_be_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _parser().parse_args(["--keep", str(tmp_path / "new")]).keep == tmp_path / "new"
    assert _parser().parse_args(["--keep", str(tmp_path)]).keep == tmp_path
    (tmp_path / "kafka").mkdir()
    with pytest.raises(SystemExit):
        _parser().parse_args(["--keep", str(tmp_path)])
    assert "name a new folder" in capsys.readouterr().err
