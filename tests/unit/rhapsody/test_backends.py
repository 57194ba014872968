"""Which backends a session has, and what is said of those that cannot be used."""

from __future__ import annotations

import asyncio

import pytest

from orbit_rhapsody import backends as backends_module
from orbit_rhapsody.backends import BACKENDS, absent_backends, available_backends, chosen_backends, start_backend
from orbit_zmq.errors import InternalError, InvalidArgument, Unsupported

UNDER_DRAGON = "DRAGON_MY_PUID"


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for name in ("ORBIT_RHAPSODY_BACKEND", UNDER_DRAGON):
        monkeypatch.delenv(name, raising=False)


def test_a_session_has_the_backends_that_it_asks_for_each_once_and_by_its_present_name():
    assert chosen_backends(["noop", "dragon_v3", "noop", "dragon"]) == ["noop", "dragon"]


def test_without_a_wish_it_is_the_setting_then_dragon_under_its_launcher_then_concurrent(monkeypatch):
    assert chosen_backends(None) == chosen_backends([]) == ["concurrent"]
    monkeypatch.setenv(UNDER_DRAGON, "1")
    assert chosen_backends(None) == ["dragon"]
    monkeypatch.setenv("ORBIT_RHAPSODY_BACKEND", "noop, concurrent")
    assert chosen_backends(None) == ["noop", "concurrent"]
    assert chosen_backends(["dask"]) == ["dask"]


@pytest.mark.parametrize("wrong", ["noop", [5], [None]])
def test_backends_are_a_list_of_names(wrong):
    with pytest.raises(InvalidArgument, match="list of names"):
        chosen_backends(wrong)


def test_what_is_not_installed_is_absent_with_the_package_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(backends_module, "_is_there", lambda module: module == "rhapsody")

    absent = absent_backends()

    assert available_backends() == ["concurrent", "noop"]
    assert set(absent) == {"dask", "dragon", "radical_pilot"}
    assert all("is not installed" in reason and "pip install" in install for reason, install in absent.values())
    with pytest.raises(Unsupported, match=r"'dask' cannot be used here .*distributed.*available: concurrent, noop") as caught:
        asyncio.run(start_backend("dask"))
    assert "orbit-zmq[dask]" in caught.value.hint


def test_without_rhapsody_all_are_absent(monkeypatch):
    monkeypatch.setattr(backends_module, "_is_there", lambda module: False)

    assert available_backends() == []
    assert set(absent_backends()) == set(BACKENDS)
    assert all("orbit-zmq[rhapsody]" in install for _, install in absent_backends().values())


def test_dragon_is_absent_in_a_process_that_its_launcher_has_not_started(monkeypatch):
    monkeypatch.setattr(backends_module, "_is_there", lambda module: True)

    assert "launcher" in absent_backends()["dragon"][0]
    monkeypatch.setenv(UNDER_DRAGON, "1")
    assert "dragon" not in absent_backends()


def test_a_backend_that_does_not_start_says_which_and_why(monkeypatch):
    def arguments(cls: type, options: dict[str, object]) -> dict[str, object]:
        raise OSError("no room")

    monkeypatch.setattr(BACKENDS["concurrent"].driver, "arguments", classmethod(arguments))
    with pytest.raises(InternalError, match="'concurrent' did not start: OSError: no room") as caught:
        asyncio.run(start_backend("concurrent"))
    assert caught.value.details == {"backend": "concurrent", "stage": "starting"}
