"""What is installed: the wheel's content, the entry points, and types that another project can check against."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import orbit_zmq

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [Path(package) for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(target)},
        check=True,
        capture_output=True,
        timeout=280,
    )
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_has_nothing_but_our_packages_at_its_top(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    version = orbit_zmq.__version__

    assert tops == {*(package.name for package in PACKAGES), f"orbit_zmq-{version}.dist-info"}
    assert all(top.startswith("orbit_") for top in tops)


def test_the_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in PACKAGES:
        sources = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        missing = {str(Path(package.name) / path.relative_to(ROOT / package)) for path in sources} - names
        assert not missing
        assert f"{package.name}/py.typed" in names


def test_every_package_on_a_shelf_is_shipped() -> None:
    on_shelves = {path.parent for shelf in ("brokers", "plugins") for path in (ROOT / shelf).glob("*/__init__.py")}

    assert {ROOT / package for package in PACKAGES} == {ROOT / "orbit_zmq", *on_shelves}


def test_the_license_and_the_command_come_along(wheel: zipfile.ZipFile) -> None:
    information = f"orbit_zmq-{orbit_zmq.__version__}.dist-info"

    assert "orbit = orbit_zmq.cli.main:main" in wheel.read(f"{information}/entry_points.txt").decode()
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


@pytest.mark.parametrize("group", sorted(PROJECT["project"]["entry-points"]))
def test_every_entry_point_leads_to_a_class(group: str) -> None:
    for target in PROJECT["project"]["entry-points"][group].values():
        module, _, name = target.partition(":")
        assert isinstance(getattr(import_module(module), name), type)


def test_nothing_newer_is_asked_for_than_psij_allows() -> None:
    (psutil,) = [wanted for wanted in PROJECT["project"]["dependencies"] if wanted.startswith("psutil")]

    assert psutil == "psutil>=5.9"
    assert not any(wanted.startswith("packaging") for wanted in PROJECT["project"]["dependencies"])


def test_every_public_name_can_be_imported() -> None:
    for name in orbit_zmq.__all__:
        assert getattr(orbit_zmq, name) is getattr(orbit_zmq, name)
    with pytest.raises(AttributeError):
        orbit_zmq.absent  # noqa: B018


USER_CODE = """
from collections.abc import AsyncIterator

import orbit_zmq
from orbit_zmq import AsyncClient, Client, Plugin, PluginSession, operation


class EchoSession(PluginSession):
    @operation(effect="read")
    async def echo(self, text: str) -> str:
        return text

    @operation(effect="write")
    async def count(self, data: AsyncIterator[bytes]) -> int:
        return sum([len(chunk) async for chunk in data])


class EchoPlugin(Plugin):
    plugin_name = "echo"
    session_class = EchoSession


def names(client: Client) -> list[str]:
    return [endpoint.name for endpoint in client.endpoints()]


async def names_async(client: AsyncClient) -> list[str]:
    return [endpoint.name for endpoint in await client.endpoints()]


with orbit_zmq.local(plugins=[EchoPlugin]) as orbit, orbit.client() as client:
    reveal_type(orbit)
    reveal_type(client)
    reveal_type(client.get_plugin("local", "echo"))
    wrong: int = client.endpoints()
"""


def test_a_project_beside_an_editable_install_type_checks(tmp_path: Path) -> None:
    (tmp_path / "user_code.py").write_text(USER_CODE)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "user_code.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]

    assert len(errors) == 1 and "incompatible type" in errors[0].lower(), done.stdout + done.stderr
    for known in ("orbit_zmq.embedded.LocalOrbit", "orbit_zmq.client._sync.client.Client", "PluginClient"):
        assert known in done.stdout
