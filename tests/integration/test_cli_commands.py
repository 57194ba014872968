"""Commands beyond starting and stopping: calls by the schema, sessions, plugins, events, versions, contexts, completion."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from lab import Lab, directories, within
from raw_peer import Peer

from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import ERRORS
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import make_keypair

ORBIT = [sys.executable, "-m", "orbit_zmq.cli"]
ERRORS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A broker and two endpoints, for all tests here."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    made = Lab(place)
    with within(place):
        try:
            made.start_broker()
            made.start_endpoint("hpc1", plugins="test,math")
            made.start_endpoint("other", plugins="test")
            yield made
        finally:
            made.close()
            shutil.rmtree(place, ignore_errors=True)


def runner(environment: dict[str, str], program: Sequence[str] = ORBIT) -> Run:
    def run(*words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*program, *words],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            input="from afar",
        )
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def run(lab: Lab) -> Run:
    return runner(lab.environment)


@pytest.fixture
def run_alone(tmp_path: Path) -> Run:
    return runner(environment_of_child(**directories(tmp_path)))


def items(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return found


def item(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)["item"]


def test_a_call_is_typed_by_the_schema(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)

    assert run("call", "hpc1", "test", "echo", "text=3").stdout == "3\n"
    assert item(run("call", "hpc1", "math", "add", "a=1", "b=2.5", "--json"))["result"] == 3.5
    assert run("call", "hpc1", "test", "count", f"data=@{tmp_path}/file").stdout == "3000000\n"
    assert run("call", "hpc1", "test", "echo", "text=@-").stdout == "from afar\n"
    assert run("call", "hpc1", "test", "echo_raw", "body=@-").stdout == "from afar"
    assert "a has to be an integer or a number" in run("call", "hpc1", "math", "add", "a=x", "b=1", code=2).stderr
    assert "orbit plugin show test" in run("call", "hpc1", "test", "absent", code=1).stderr


def test_names_may_be_shortened(run: Run) -> None:
    sid = item(run("call", "hp", "te", "register_session", "lifetime=persistent", "--json"))["sid"]

    assert item(run("call", "hpc1", "test", "where", "text=x", "--session", sid[:-3], "--json"))["sid"] == sid
    assert item(run("session", "show", sid[:-3], "--json"))["endpoint"] == "hpc1"
    assert items(run("session", "close", sid[:-3], "--json"))[0]["status"] == "closed"
    assert "no endpoint 'absent'" in run("call", "absent", "test", "ping", code=1).stderr


def test_sessions_of_all_endpoints_are_listed_and_closed(run: Run) -> None:
    for endpoint in ("hpc1", "other"):
        for name in ("work-1", "work-2"):
            run("call", endpoint, "test", "register_session", f"sid={name}-{endpoint}", "lifetime=persistent")
    sids = {"work-1-hpc1", "work-2-hpc1", "work-1-other", "work-2-other"}

    assert sids <= set(run("session", "list", "-q").stdout.split())
    assert set(run("session", "list", "-q", "--endpoint", "oth").stdout.split()) & sids == {"work-1-other", "work-2-other"}
    assert "work-1-hpc1, work-1-other" in run("session", "show", "work-1", code=2).stderr
    assert set(run("session", "close", "work-1*,work-2-h", "-q").stdout.split()) == sids - {"work-2-other"}
    run("session", "close", "all", "--endpoint", "other")
    assert not sids & set(run("session", "list", "-q").stdout.split())
    assert run("session", "close", "nothing*", "-q").stdout == ""


def test_an_id_that_is_at_several_places_has_to_be_said_which(run: Run) -> None:
    for endpoint in ("hpc1", "other"):
        run("call", endpoint, "test", "echo", "text=x")

    assert "--endpoint" in run("session", "close", "default", code=2).stderr
    assert run("session", "close", "default", "--endpoint", "other", "-q").stdout == "default\n"


def test_plugins_are_listed_and_shown_with_their_operations(run: Run) -> None:
    listed = items(run("plugin", "list", "--json"))
    assert {("math", "hpc1", "served"), ("test", "hpc1", "served"), ("test", "other", "served")} <= {
        (one["plugin"], one["endpoint"], one["state"]) for one in listed
    }
    shown = item(run("plugin", "show", "test", "--json"))
    (echo,) = [one for one in shown["operations"] if one["operation"] == "echo"]
    assert (echo["signature"], echo["effect"], echo["doc"]) == ("echo(text: str) -> str", "read", "The same text.")
    assert shown["endpoints"] == ["hpc1", "other"]
    table = run("plugin", "show", "test", ORBIT_OUTPUT="table").stdout
    assert "echo(text: str) -> str" in table and "OPERATIONS" in table
    run("plugin", "show", "math", "--endpoint", "other", code=1)


@pytest.fixture
def talker(lab: Lab) -> Iterator[Callable[[str], None]]:
    """An endpoint by hand, which says something about a topic."""
    with zmq.Context() as context:
        peer = Peer(context, lab.url)
        user = peer.hello("endpoint", name="talker")["user"]
        said = 0

        def say(topic: str) -> None:
            nonlocal said
            said += 1
            header = {"k": 14, "i": said, "p": "p", "n": "s", "o": topic, "y": time.time(), "w": user}
            peer.send(header, msgpack.packb({"number": said}))

        yield say
        peer.close()


def test_events_are_shown_as_they_happen_until_enough_or_ctrl_c(lab: Lab, run: Run, talker: Callable[[str], None]) -> None:
    def listen(*words: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [*ORBIT, "events", *words], env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert started.stderr is not None
        assert started.stderr.readline().startswith("Listening")
        return started

    counted = listen("--topic", "news", "--count", "2", "--timeout", "90s", "--jsonl")
    followed = listen("-f", "--endpoint", "talker", "--plugin", "p", "--session", "s")
    for topic in ("news", "other", "news"):
        talker(topic)
    said, _ = counted.communicate(timeout=100)
    events = [json.loads(line) for line in said.splitlines()]
    assert counted.returncode == 0
    assert [(one["schema"], one["version"], one["item"]["topic"], one["item"]["data"]) for one in events] == [
        ("orbit.events", 1, "news", {"number": 1}),
        ("orbit.events", 1, "news", {"number": 3}),
    ]

    assert followed.stdout is not None
    lines = [followed.stdout.readline() for _ in range(4)]
    assert lines[0].split() == ["time", "endpoint", "plugin", "session", "topic", "data"]
    assert [line.split("\t")[4] for line in lines[1:]] == ["news", "other", "news"]
    followed.send_signal(signal.SIGINT)
    _, complained = followed.communicate(timeout=60)
    assert (followed.returncode, complained.strip()) == (130, "")


def test_events_that_could_not_be_had_are_shown_with_their_number(lab: Lab) -> None:
    with zmq.Context() as context:
        peer = Peer(context, lab.url)
        user = peer.hello("endpoint", name="gap")["user"]
        with subprocess.Popen(
            [*ORBIT, "events", "--endpoint", "gap", "--count", "2", "--timeout", "90s", "--jsonl"],
            env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as listening:  # fmt: skip
            assert listening.stderr is not None
            listening.stderr.readline()
            for number in (1, 5):
                event = {"k": 14, "i": number, "p": "p", "n": "s", "o": "news", "y": time.time(), "w": user}
                peer.send(event, msgpack.packb({}))
            asked, _ = peer.receive()
            error = {"code": "not-found", "message": "forgotten", "hint": ""}
            peer.send({"k": 9, "i": asked["i"], "c": asked["c"], "t": peer.incarnation}, error)
            said, _ = listening.communicate(timeout=100)
        peer.close()

    found = [json.loads(line)["item"] for line in said.splitlines()]
    assert [(one["topic"], one["missed"]) for one in found] == [("news", 0), ("missed", 3), ("news", 0)]


def test_events_that_do_not_come_in_time_are_exit_code_5(run: Run) -> None:
    assert "0 of 1" in run("events", "--topic", "never", "--count", "1", "--timeout", "0.1s", code=5).stderr


def test_versions_of_all_are_in_one_table_and_differences_are_marked(lab: Lab, run: Run) -> None:
    with zmq.Context() as context:
        peer = Peer(context, lab.url)
        peer.hello("endpoint", name="old", environment={"orbit_version": "0.0.1", "python_version": "3.9.1"})
        rows = {one["name"]: one for one in items(run("version", "--all", "--json"))}
        peer.close()

    assert rows["old"]["differs"] == ["orbit-zmq", "python"]
    assert rows["hpc1"]["differs"] == rows["broker"]["differs"] == []
    assert {one["part"] for one in rows.values()} == {"client", "broker", "endpoint"}


def test_a_context_is_stored_used_shown_without_its_secret_and_removed(run_alone: Run, tmp_path: Path) -> None:
    join = JoinString(("tcp://bridge:5670",), ("tcp://bridge:5671",), make_keypair().public, make_keypair(), "laptop", "client")
    join.write(tmp_path / "join")
    run_alone("context", "add", "work", "--join", str(tmp_path / "join"))
    run_alone("context", "add", "local", "--url", "ipc:///run/b.sock")
    run_alone("context", "add", "bad", "--url", "bridge", code=2)
    run_alone("context", "add", "neither", code=2)

    run_alone("context", "use", "wo")
    assert [(one["context"], one["in_use"]) for one in items(run_alone("context", "list", "--json"))] == [
        ("local", False),
        ("work", True),
    ]
    for mode in ("table", "tsv", "json"):
        shown = run_alone("context", "show", "work", ORBIT_OUTPUT=mode)
        assert join.keys.public in shown.stdout.replace("\n", "") or mode == "tsv"
        assert join.keys.secret not in shown.stdout + shown.stderr and "orbit1:" not in shown.stdout
    (url,) = [one for one in items(run_alone("config", "show", "--origin", "--json")) if one["setting"] == "url"]
    assert (url["value"], url["origin"]) == ("tcp://bridge:5670", "context work")
    run_alone("context", "remove", "work")
    assert items(run_alone("context", "list", "--json"))[0]["context"] == "local"
    assert {one["origin"] for one in items(run_alone("config", "show", "--json"))} == {"default"}


def test_settings_are_set_shown_with_their_origin_and_refused(run_alone: Run) -> None:
    run_alone("config", "set", "output", "json")
    origins = {one["setting"]: one["origin"] for one in items(run_alone("config", "show", "--origin"))}
    assert origins["output"].endswith("config.toml") and origins["url"] == "default"
    assert "'tsv'" in run_alone("config", "set", "output", "xml", code=2).stderr
    assert "There are: url" in run_alone("config", "set", "colour", "red", code=2).stderr
    run_alone("config", "unset", "output")


def test_the_table_of_errors_is_that_of_the_page(run_alone: Run) -> None:
    text = ERRORS_PAGE.read_text()
    rows = {
        f"| `{one['code']}` | {one['what_happened']} | {one['what_to_do']} | {'yes' if one['transient'] else 'no'} "
        f"| {one['http_status']} | `{one['python']}` |"
        for one in items(run_alone("errors", "--json"))
    }
    exit_codes = {
        code: row[1] for row in re.finditer(r"^\| (\d+) \|.*\| (.*) \|$", text, re.MULTILINE) for code in row[2].split(", ")
    }

    assert rows == {line for line in text.splitlines() if re.match(r"\| `[a-z-]+` \|.*\| `[A-Z]", line)}
    for one in items(run_alone("errors", "--json")):
        assert str(one["exit_code"]) == exit_codes.get(f"`{one['code']}`", "1")
    assert set(run_alone("errors", "-q").stdout.split()) == set(ERRORS)
    assert item(run_alone("errors", "broker-un", "--json"))["exit_code"] == 3
    assert "Did you mean busy" in run_alone("errors", "bussy", code=1).stderr


@pytest.fixture
def run_patiently(lab: Lab) -> Run:
    """A command that waits longer for names than somebody who has pressed a key."""
    changed = "from orbit_zmq.cli import completion; completion.CONNECT_S = completion.ANSWER_S = 60.0"
    program = f"{changed}; import sys; from orbit_zmq.cli.main import main; sys.exit(main())"
    return runner(lab.environment, [sys.executable, "-c", program])


def complete(run: Run, *words: str) -> list[str]:
    done = run(_ORBIT_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_live_names_are_completed(run: Run, run_patiently: Run) -> None:
    run("call", "hpc1", "test", "echo", "text=x")

    assert complete(run_patiently, "orbit", "ses") == ["session"]
    assert complete(run_patiently, "orbit", "call", "h") == ["hpc1"]
    assert complete(run_patiently, "orbit", "call", "other", "t") == ["test"]
    assert complete(run_patiently, "orbit", "call", "hpc1", "math", "ad") == ["add"]
    assert complete(run_patiently, "orbit", "call", "hpc1", "test", "echo", "--session", "de") == ["default"]
    assert complete(run_patiently, "orbit", "plugin", "show", "ma") == ["math"]
    assert complete(run_patiently, "orbit", "errors", "bu") == ["busy"]


def test_without_a_broker_nothing_is_completed_and_nothing_said(run_alone: Run) -> None:
    began = time.monotonic()
    assert complete(run_alone, "orbit", "call", "h") == []
    assert complete(run_alone, "orbit", "call", "--url", "ipc:///tmp/nobody", "h") == []
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_one_that_it_takes(run_alone: Run, tmp_path: Path, shell: str) -> None:
    script = run_alone("completion", shell).stdout
    assert "_ORBIT_COMPLETE" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=30)


def test_a_command_of_another_package_is_found(tmp_path: Path) -> None:
    information = tmp_path / "extra-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[orbit_zmq.commands]\nextra = extra:extra\nbroken = extra.absent:x\n")
    (tmp_path / "extra.py").write_text("import click\n\n\n@click.command()\ndef extra():\n    click.echo('hello')\n")
    made = environment_of_child(**directories(tmp_path))
    run = runner(made | {"PYTHONPATH": f"{tmp_path}:{made['PYTHONPATH']}"})

    assert run("extra").stdout == "hello\n"
    assert "does not import" in run("broken", code=1).stderr
    assert "No such command" in run("absent", code=2).stderr


def test_usage_errors_are_json_too(run_alone: Run) -> None:
    said = json.loads(run_alone("session", "list", "--json", "--absent", code=2).stderr)

    assert (said["error"]["code"], said["error"]["exit_code"]) == ("invalid-argument", 2)


def test_a_reader_that_leaves_is_no_error(lab: Lab) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(ORBIT)} plugin show test | head -1"],
        env=lab.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout == "field\tvalue\n" and "Traceback" not in done.stderr
