"""Directories: private, moved by variables, and an error that names the variable where one cannot be made."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from orbit_zmq import paths
from orbit_zmq.errors import NotPermitted

DIRECTORIES = [
    ("ORBIT_CONFIG_DIR", paths.config_dir),
    ("ORBIT_STATE_DIR", paths.state_dir),
    ("ORBIT_RUNTIME_DIR", paths.runtime_dir),
]


@pytest.mark.parametrize(("variable", "directory"), DIRECTORIES)
def test_a_variable_moves_a_directory_which_is_made_private(
    variable: str, directory: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "a" / "b"))

    assert directory() == tmp_path / "a" / "b"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.parametrize(("variable", "directory"), DIRECTORIES)
def test_a_directory_that_cannot_be_made_names_the_variable(
    variable: str, directory: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))

    with pytest.raises(NotPermitted, match=variable):
        directory()


@pytest.mark.parametrize(("variable", "directory"), DIRECTORIES)
def test_a_directory_that_others_may_enter_is_refused(
    variable: str, directory: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv(variable, str(tmp_path / "open"))

    with pytest.raises(NotPermitted, match="chmod 700"):
        directory()


def test_a_symbolic_link_in_place_of_the_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path / "link"))

    with pytest.raises(NotPermitted):
        paths.runtime_dir()


def test_a_socket_lies_in_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SOCKET_PATH_BYTES", 10_000)
    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path / "run"))

    assert paths.socket_path("broker.sock") == str(tmp_path / "run" / "broker.sock")


def test_a_long_socket_path_falls_back_to_a_short_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    short = Path(paths.socket_path("broker.sock"))

    assert len(os.fsencode(short)) <= paths.SOCKET_PATH_BYTES
    assert str(os.geteuid()) in short.parent.name
    assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
    assert paths.socket_path("broker.sock") == str(short)

    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path / ("y" * 100)))
    assert paths.socket_path("broker.sock") != str(short)
