"""What programs write, how they end, and how their lines are read while they run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from growth import Growth
from lab import Lab, wait_until

from orbit_rhapsody.client import RhapsodyClient
from orbit_rhapsody.output import KEPT_BYTES, LINES_BYTES
from orbit_zmq.errors import InvalidArgument, NotFound, Unsupported

PATIENCE_S = 60.0
MEBIBYTE = 1 << 20
GROWTH_BYTES = 64 * MEBIBYTE


@pytest.fixture(scope="module")
def rhapsody(rhapsody_lab: Lab) -> Any:
    return rhapsody_lab.client(rhapsody_lab.tcp).get_plugin("hpc1", "rhapsody", backends=["concurrent"])


def sh(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def result_of(rhapsody: RhapsodyClient, task: dict[str, Any], patience_s: float = PATIENCE_S) -> dict[str, Any]:
    (result,) = rhapsody.wait_tasks(rhapsody.submit_tasks([task]), timeout=patience_s)
    return result


@pytest.mark.parametrize(
    ("script", "state", "exit_code", "signal"),
    [
        ("exit 0", "DONE", 0, None),
        ("exit 3", "FAILED", 3, None),
        ("kill -SEGV $$", "FAILED", -11, "SIGSEGV"),
        ("kill -KILL $$", "FAILED", -9, "SIGKILL"),
        ("kill -40 $$", "FAILED", -40, "signal 40"),
        ("/bin/sh -c 'kill -TERM $$'; exit $?", "FAILED", 143, None),  # what a shell says of a program that it ran
    ],
)
def test_a_program_says_how_it_ended(rhapsody, script: str, state: str, exit_code: int, signal: str | None) -> None:
    result = result_of(rhapsody, sh(f"echo out; echo err >&2; {script}"))

    assert (result["state"], result["exit_code"], result["signal"]) == (state, exit_code, signal)
    assert (result["stdout"], result["stderr"].splitlines()[0]) == ("out\n", "err")


def test_a_program_that_is_canceled_has_what_it_wrote_until_then_and_its_signal(rhapsody) -> None:
    (answer,) = rhapsody.submit_tasks([sh("echo begun; exec sleep 600", stream_output=True)])
    assert next(iter(rhapsody.output(answer))).text == "begun"

    rhapsody.cancel_task(answer["uid"])
    (result,) = rhapsody.wait_tasks([answer], timeout=PATIENCE_S)

    assert (result["state"], result["stdout"], result["signal"]) == ("CANCELED", "begun\n", "SIGINT")


def test_output_that_is_not_utf8_is_shown_and_fails_no_task(rhapsody) -> None:
    result = result_of(rhapsody, sh(r"printf 'a\377b\n'; printf '\000c\n'"))

    assert (result["state"], result["stdout"]) == ("DONE", "a\\xffb\n\x00c\n")


@pytest.mark.timeout(300)
def test_a_program_that_prints_a_gigabyte_grows_nobody_and_says_how_much_is_missing(lab: Lab) -> None:
    endpoint = lab.start_endpoint("hpc1", plugins="rhapsody")
    assert lab.broker is not None
    plugin = lab.client().get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    result_of(plugin, sh("head -c 4194304 /dev/zero"))
    growth = Growth(endpoint=endpoint.pid, broker=lab.broker.pid)

    result = result_of(plugin, sh("head -c 1073741824 /dev/zero | tr '\\0' x; echo end"), 200.0)

    first, _, rest = result["stdout"].partition("\n")
    dropped = int(first.removeprefix("[").removesuffix(" bytes before this are not kept]"))
    assert dropped + len(rest) == (1 << 30) + len("end\n")
    assert KEPT_BYTES <= len(rest) < KEPT_BYTES + MEBIBYTE
    assert rest.endswith("xend\n")
    assert max(growth.bytes().values()) < GROWTH_BYTES, growth.bytes()


def test_lines_are_read_in_order_while_the_program_runs(rhapsody, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    script = f"echo one; echo two >&2; while ! test -e {go_on}; do sleep 0.02; done; echo; printf three"
    (answer,) = rhapsody.submit_tasks([sh(script, stream_output=True)])

    lines = iter(rhapsody.output(answer))
    first = [next(lines), next(lines)]
    assert rhapsody.get_task(answer["uid"])["state"] == "RUNNING"
    go_on.touch()
    rest = list(lines)

    assert {(line.stream, line.text) for line in first} == {("stdout", "one"), ("stderr", "two")}
    assert [(line.stream, line.text) for line in rest] == [("stdout", ""), ("stdout", "three")]
    assert [line.number for line in (*first, *rest)] == [1, 2, 3, 4]
    assert {line.missed for line in (*first, *rest)} == {0}
    assert list(rhapsody.output(answer)) == [*first, *rest]  # again, and from where one has got to
    assert list(rhapsody.output(answer, after=2)) == rest
    assert rhapsody.wait_tasks([answer], timeout=PATIENCE_S)[0]["stdout"] == "one\n\nthree"


def test_a_submit_may_stream_the_output_of_all_its_programs(rhapsody) -> None:
    answers = rhapsody.submit_tasks(
        [sh("echo a"), {"function": "math:hypot", "args": [3, 4]}, sh("echo b")], stream_output=True
    )

    assert [line.text for line in rhapsody.output(answers[0])] == ["a"]
    assert [line.text for line in rhapsody.output(answers[2])] == ["b"]
    assert rhapsody.wait_tasks(answers, timeout=PATIENCE_S)[1]["return_value"] == 5.0


def test_a_reader_waits_for_a_program_that_has_not_begun_and_ends_with_one_that_never_does(rhapsody_lab: Lab) -> None:
    with rhapsody_lab.client().get_plugin("hpc1", "rhapsody", backends=["concurrent"]) as plugin:
        (bad,) = plugin.submit_tasks([sh("true", stream_output=True, cwd="/no/such/directory")])
        assert list(plugin.output(bad)) == []


def test_a_reader_that_is_cut_off_goes_on_where_it_was(lab: Lab) -> None:
    proxy = lab.proxy(lab.tcp)
    lab.start_endpoint("hpc1", url=proxy.address, plugins="rhapsody")
    from_here = lab.proxy(lab.tcp)
    plugin = lab.client(from_here.address).get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    (answer,) = plugin.submit_tasks([sh("for n in $(seq 200); do echo $n; sleep 0.02; done", stream_output=True)])

    seen = []
    for line in plugin.output(answer):
        seen.append(line)
        if line.number in (20, 60, 100):
            from_here.cut()
        if line.number in (40, 80):
            proxy.cut()

    assert [line.text for line in seen] == [str(number) for number in range(1, 201)]
    assert {line.missed for line in seen} == {0}


def test_lines_that_nobody_reads_are_cut_from_the_beginning_and_counted(rhapsody) -> None:
    count = 400_000
    (answer,) = rhapsody.submit_tasks([sh(f"seq {count}", stream_output=True)])
    rhapsody.wait_tasks([answer], timeout=PATIENCE_S)

    lines = list(rhapsody.output(answer))

    assert lines[0].missed > 0
    assert lines[0].missed + len(lines) == count
    assert [line.number for line in lines] == list(range(lines[0].number, count + 1))
    assert lines[0].number == lines[0].missed + 1
    assert lines[-1].text == str(count)


def test_a_line_of_any_length_is_read_in_pieces(rhapsody) -> None:
    (answer,) = rhapsody.submit_tasks([sh("head -c 1000000 /dev/zero | tr '\\0' x", stream_output=True)])

    assert "".join(line.text for line in rhapsody.output(answer)) == "x" * 1_000_000
    assert LINES_BYTES > 1_000_000


def test_several_may_read_the_same_lines(rhapsody) -> None:
    (answer,) = rhapsody.submit_tasks([sh("for n in 1 2 3 4 5; do echo $n; sleep 0.05; done", stream_output=True)])
    seen: list[list[str]] = [[], []]

    def read(mine: list[str]) -> None:
        mine += [line.text for line in rhapsody.output(answer)]

    readers = [threading.Thread(target=read, args=(mine,)) for mine in seen]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE_S)

    assert seen == [["1", "2", "3", "4", "5"]] * 2


def test_output_that_is_not_streamed_is_refused_by_name(rhapsody) -> None:
    (plain,) = rhapsody.submit_tasks([sh("exec sleep 600")])
    wait_until(lambda: rhapsody.get_task(plain["uid"])["state"] == "RUNNING")
    with pytest.raises(InvalidArgument, match="not streamed"):
        next(iter(rhapsody.output(plain)))
    rhapsody.cancel_task(plain["uid"])
    with pytest.raises(NotFound, match="nobody"):
        next(iter(rhapsody.output("nobody")))

    function = result_of(rhapsody, {"function": "math:hypot", "args": [3, 4], "stream_output": True})
    assert isinstance(function["exception"], Unsupported)
    assert "stream_output" in str(function["exception"])
    both = result_of(rhapsody, sh("true", stream_output=True, capture_stdio=True))
    assert isinstance(both["exception"], InvalidArgument)


def test_a_line_is_there_soon_after_it_was_written(rhapsody, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"for n in $(seq 10); do date +%s.%N; while ! test -e {seen}$n; do sleep 0.02; done; done"
    (answer,) = rhapsody.submit_tasks([sh(script, stream_output=True)])

    late_s = []
    for line in rhapsody.output(answer):
        late_s.append(time.time() - float(line.text))
        Path(f"{seen}{line.number}").touch()  # only then the next one is written

    assert len(late_s) == 10 and min(late_s) < 0.25  # a window would make each of them late
