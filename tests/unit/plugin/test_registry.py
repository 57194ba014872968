"""The registry: which plugins are known, which are loaded, and why others are not."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from orbit_testplugin import TestPlugin, TestSession
from orbit_zmq.errors import InvalidArgument, NotFound
from orbit_zmq.plugin import Host, Plugin, get_plugin_class, get_plugin_names, registry
from orbit_zmq.plugin.host import ROLES, detect_role, detect_scheduler
from orbit_zmq.plugin.registry import POLICIES, make_plugins, policy_of, select


@pytest.fixture(autouse=True)
def only_these_plugins(monkeypatch):
    """A registry with the test plugin defined and four entry points, whatever is installed here."""
    points = [
        EntryPoint("installed", "tests.unit.plugin.test_registry:Installed", registry.GROUP),
        EntryPoint("broken", "orbit_no_such_module:Broken", registry.GROUP),
        EntryPoint("not-a-plugin", "builtins:int", registry.GROUP),
        EntryPoint("psij", "orbit_no_such_module:Psij", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_defined", {"test": TestPlugin})


def plugin_class(name: str, **members: Any) -> type[Plugin]:
    return type(name.title(), (Plugin,), {"plugin_name": name, "session_class": TestSession, **members})


class Installed(Plugin):
    plugin_name = "installed"
    session_class = TestSession


def test_defining_a_class_makes_it_known():
    made = plugin_class("fresh")

    assert get_plugin_class("fresh") is made
    assert "fresh" in get_plugin_names()


def test_a_base_class_without_a_plugin_name_is_no_plugin():
    class Base(Plugin):
        pass

    assert get_plugin_names() == ["broken", "installed", "not-a-plugin", "psij", "test"]
    assert not Base.plugin_name


def test_an_unknown_plugin_has_no_class():
    assert get_plugin_class("nobody") is None


def test_an_entry_point_is_imported_when_it_is_asked_for():
    loaded = get_plugin_class("installed")

    assert loaded is not None and loaded.plugin_name == "installed"


def test_plugins_that_do_not_import_stay_absent_with_the_reason():
    assert get_plugin_class("broken") is None
    classes, absent = select("test,broken,not-a-plugin", "standalone")

    assert classes == [TestPlugin]
    assert absent == [
        {"plugin": "broken", "reason": "does not import: ModuleNotFoundError: No module named 'orbit_no_such_module'"},
        {"plugin": "not-a-plugin", "reason": "its entry point builtins:int is no Plugin of that name"},
    ]


def test_a_name_selects_one_plugin_once():
    assert select(["test", "te*", TestPlugin], "login")[0] == [TestPlugin]


def test_a_class_needs_no_registration():
    made = plugin_class("private")
    registry._defined.clear()

    assert select([made], "compute") == ([made], [])


def test_globs_select_what_they_match():
    made = plugin_class("tester")

    assert select("test*", "login")[0] == [TestPlugin, made]


def test_all_is_everything_that_the_role_may_load():
    classes, absent = select("all", "bridge")

    assert {found.plugin_name for found in classes} == {"installed", "test"}
    assert {one["plugin"] for one in absent} == {"broken", "not-a-plugin", "psij"}


def test_default_is_what_the_role_loads_by_itself():
    sysinfo, queue_info = plugin_class("sysinfo"), plugin_class("queue_info")

    assert select("default", "compute")[0] == [queue_info, sysinfo]
    assert select("default", "standalone")[0] == [sysinfo]
    assert select(["default", "test"], "bridge")[0] == [sysinfo, TestPlugin]


def test_a_name_that_matches_nothing_is_an_error_that_lists_the_known_ones():
    with pytest.raises(NotFound) as caught:
        select("tst", "login")

    assert caught.value.message == "no plugin matches 'tst'; there are: broken, installed, not-a-plugin, psij, test"
    assert caught.value.hint == "Did you mean 'test'?"
    with pytest.raises(NotFound, match=r"no plugin matches 'x\*'"):
        select(["test", "x*"], "login")


def test_a_plugin_that_is_not_for_the_role_is_refused_also_when_named():
    assert select("psij", "bridge") == ([], [{"plugin": "psij", "reason": "not for an endpoint of role bridge"}])


def test_plugins_outside_the_table_are_loaded_on_request_everywhere():
    assert {policy_of("somebodys", role) for role in ROLES} == {"on request"}
    assert policy_of("math", "bridge") == "on request"


def test_the_table_of_roles_is_complete_for_what_is_loaded_by_default():
    assert policy_of("rhapsody", "login") == "on request" and policy_of("rhapsody", "compute") == "default"
    assert all(set(row) <= set(ROLES) for row in POLICIES.values())


def test_a_plugin_that_does_not_apply_or_cannot_be_made_stays_absent():
    def fails(self: Any, host: Host) -> None:
        raise OSError("no scheduler socket")

    off = plugin_class("off", is_enabled=classmethod(lambda cls, host: not host.is_standalone))
    broken = plugin_class("bad", __init__=fails)

    plugins, absent = make_plugins([TestPlugin, off, broken], Host(role="standalone"))

    assert [plugin.instance_name for plugin in plugins] == ["test"]
    assert absent == [
        {"plugin": "off", "reason": "not applicable on this host"},
        {"plugin": "bad", "reason": "cannot be made: OSError: no scheduler socket"},
    ]
    assert len(make_plugins([off], Host(role="login"))[0]) == 1


def test_the_host_says_which_role_it_has():
    flags = {
        role: (host.is_bridge, host.is_login_node, host.is_compute_node, host.is_standalone)
        for role in ROLES
        for host in [Host(role=role)]
    }

    assert flags == {
        "bridge": (True, False, False, False),
        "login": (False, True, False, False),
        "compute": (False, False, True, False),
        "standalone": (False, False, False, True),
    }
    with pytest.raises(InvalidArgument, match="'head' is no role"):
        Host(role="head")


def commands(*names: str) -> Any:
    return lambda name: f"/usr/bin/{name}" if name in names else None


def test_role_and_scheduler_come_from_the_environment_and_the_commands():
    slurm = commands("sbatch", "squeue")

    assert (detect_role({}, commands()), detect_scheduler({}, commands())) == ("standalone", "none")
    assert (detect_role({}, slurm), detect_scheduler({}, slurm)) == ("login", "slurm")
    assert detect_role({"SLURM_JOB_ID": "7"}, slurm) == "compute"
    assert detect_scheduler({"PBS_JOBID": "7.host"}, slurm) == "pbs"
    assert detect_role({}, commands("sbatch")) == "standalone"
    assert detect_scheduler({}, commands("bsub", "bjobs")) == "lsf"
