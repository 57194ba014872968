"""How a gateway is started: beside a broker, with `orbit up`, and by itself on another machine; and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from lab import Lab, directories, lasting_port, wait_until
from shell import ORBIT, Shell

from orbit_zmq.children import environment_of_child


def token_of(shell: Shell, *options: str, name: str = "me") -> dict[str, str]:
    made = shell.run("token", "create", name, *options)
    assert made.returncode == 0, made.stderr
    return {"Authorization": f"Bearer {made.stdout.strip()}"}


def answers(url: str, headers: dict[str, str]) -> bool:
    try:
        return httpx.get(f"{url}/endpoints", headers=headers, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


def gateways_of(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if "orbit_gateway" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.parametrize("supervised", [[], ["--supervise"]])
def test_a_broker_brings_its_gateway_along_and_starts_it_again_when_it_is_killed(shell: Shell, supervised: list[str]) -> None:
    http = str(lasting_port())
    broker = shell.start("broker", "start", "--host", "127.0.0.1", "--port", "0", "--http", http, *supervised)
    assert broker.stdout is not None
    ready = json.loads(broker.stdout.readline())
    url, headers = ready["http"], token_of(shell)
    assert url.startswith("http://127.0.0.1:") and answers(url, headers)

    (gateway,) = gateways_of(broker.pid)
    gateway.send_signal(signal.SIGKILL)
    gateway.wait(60)
    wait_until(lambda: answers(url, headers), what="the gateway is back at the same address")

    (gateway,) = gateways_of(broker.pid)
    assert shell.run("broker", "stop").returncode == 0
    assert broker.wait(60) == 0
    gateway.wait(60)


def test_a_gateway_ends_with_whoever_started_it(shell: Shell) -> None:
    broker = shell.start("broker", "start", "--host", "127.0.0.1", "--port", "0", "--http", "0")
    assert broker.stdout is not None
    broker.stdout.readline()
    (gateway,) = gateways_of(broker.pid)
    broker.kill()

    gateway.wait(60)


def test_a_gateway_that_comes_with_its_broker_waits_for_one_that_is_busy(lab: Lab) -> None:
    assert lab.broker is not None
    os.kill(lab.broker.pid, signal.SIGSTOP)
    goes_on = threading.Timer(4.0, os.kill, (lab.broker.pid, signal.SIGCONT))  # by hand it would wait for two seconds
    goes_on.start()
    gateway = lab.start_gateway()
    goes_on.join()

    wait_until(lambda: httpx.get(f"{gateway.ready['http']}/readyz", timeout=60).status_code == 200)


def test_a_broker_in_the_background_says_where_http_is(shell: Shell) -> None:
    done = shell.run("broker", "start", "--detach", "--host", "127.0.0.1", "--port", "0", "--http", "0")
    assert done.returncode == 0, done.stderr
    url = done.stdout.partition("HTTP at ")[2].partition(";")[0].strip()

    assert answers(url, token_of(shell))


def test_up_serves_http_too(shell: Shell) -> None:
    up = shell.start("up", "--plugins", "sysinfo", "--name", "here", "--http", "0")
    assert up.stdout is not None
    lines = [up.stdout.readline() for _ in range(4)]
    (url,) = [line.split()[-1] for line in lines if line.startswith("HTTP at ")]

    assert httpx.get(f"{url}/here/sysinfo/homedir", headers=token_of(shell), timeout=60).json()["homedir"]
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0


def test_up_on_the_network_tells_the_fingerprint_that_peers_compare(shell: Shell) -> None:
    up = shell.start("up", "--plugins", "sysinfo", "--name", "here", "--http", "0.0.0.0:0")
    assert up.stdout is not None
    lines = [up.stdout.readline() for _ in range(4)]
    (line,) = [line for line in lines if line.startswith("HTTP at https://")]
    port = int(line.partition(",")[0].rpartition(":")[2])
    shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))

    assert line.split()[-1].replace(":", "").lower() == hashlib.sha256(shown).hexdigest()
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0


def started(shell: Shell) -> Any:
    """A gateway and its first line; nothing where the broker did not answer within the two seconds that a command gives it."""
    gateway = shell.start("gateway", "start", "--http", "0", "--only", "rest,sse")
    assert gateway.stdout is not None
    said = json.loads(gateway.stdout.readline())
    return (gateway, said) if said.get("error", {}).get("code") != "broker-unreachable" else None


def test_an_invited_gateway_serves_from_another_machine(lab: Lab, tmp_path: Path) -> None:
    lab.start_endpoint("hpc1", plugins="sysinfo")
    here = Shell(lab.environment)
    invited = here.run("invite", "web", "--role", "gateway")
    assert invited.returncode == 0, invited.stderr
    elsewhere = Shell(environment_of_child(**directories(tmp_path)))
    joined = subprocess.run(
        [*ORBIT, "join", "-"],
        input=invited.stdout.strip().splitlines()[-1],
        env=elsewhere.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert joined.returncode == 0, joined.stderr
    with elsewhere.stack:
        gateway, ready = wait_until(lambda: started(elsewhere), what="the gateway has found its broker")
        headers = token_of(elsewhere)

        assert ready["broker"].startswith("tcp://")
        assert httpx.get(f"{ready['http']}/hpc1/sysinfo/homedir", headers=headers, timeout=60).status_code == 200
        admin = token_of(elsewhere, "--rights", "read,admin", name="boss")
        refused = httpx.post(f"{ready['http']}/broker/terminate", headers=admin, timeout=60)
        assert refused.status_code == 403  # its key is no admin's
        gateway.terminate()
        assert gateway.wait(60) == 0


def test_what_is_wrong_is_said_at_the_start(shell: Shell, lab: Lab) -> None:
    nobody = shell.run("gateway", "start", "--http", "0")
    assert nobody.returncode == 3 and "No broker was found" in nobody.stdout + nobody.stderr
    part = Shell(lab.environment).run("gateway", "start", "--http", "0", "--only", "rest,nope")
    assert part.returncode == 2 and "nope" in part.stderr
    address = shell.run("gateway", "start", "--http", "here")
    assert address.returncode == 2 and "is no PORT or HOST:PORT" in address.stderr


def limited(lab: Lab, option: str) -> list[str]:
    """The command of a gateway that runs under a limit of the shell's."""
    shell = ["sh", "-c", f'ulimit {option}; exec "$0" "$@"']
    return [*shell, sys.executable, "-m", "orbit_gateway", "--url", lab.url, "--http", "127.0.0.1:0"]


def test_a_gateway_with_few_descriptors_refuses_the_connections_that_are_too_many(lab: Lab) -> None:
    with (lab.place / "few.log").open("w") as errors, ExitStack() as stack:
        command = limited(lab, "-n 100")
        gateway = subprocess.Popen(command, env=lab.environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        stack.callback(gateway.wait, 60)
        stack.callback(gateway.terminate)
        assert gateway.stdout is not None
        url = json.loads(stack.enter_context(gateway.stdout).readline())["http"]
        http = stack.enter_context(httpx.Client(base_url=url, limits=httpx.Limits(keepalive_expiry=None), timeout=60))
        assert http.get("/healthz").status_code == 200

        address = (urlsplit(url).hostname, urlsplit(url).port)
        lines = [stack.enter_context(socket.create_connection(address, 60)) for _ in range(120)]

        assert b'"code": "busy"' in stack.enter_context(lines[-1].makefile("rb")).read()
        assert http.get("/healthz").status_code == 200
        for line in lines:
            line.close()
        wait_until(lambda: answers_at(url))
    assert "Traceback" not in (lab.place / "few.log").read_text()


def answers_at(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=60).status_code == 200
    return False


def test_a_gateway_without_room_for_its_state_says_so(lab: Lab) -> None:
    done = subprocess.run(limited(lab, "-f 0"), env=lab.environment, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 4 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_a_broker_whose_gateway_cannot_start_ends_and_says_why(shell: Shell, lab: Lab) -> None:
    port = lab.tcp.rpartition(":")[2]
    for more in ([], ["--supervise"]):
        broker = shell.run("broker", "start", "--host", "127.0.0.1", "--port", "0", "--http", port, *more)

        assert broker.returncode == 1 and f"127.0.0.1:{port} cannot be listened at" in broker.stdout + broker.stderr


def test_a_second_gateway_of_a_user_and_a_taken_port_are_refused(lab: Lab) -> None:
    first = lab.start_gateway("--only", "rest")
    second = Shell(lab.environment).run("gateway", "start", "--http", "0")
    assert second.returncode == 1 and "A gateway of this user runs here already" in second.stdout + second.stderr
    first.end()
    taken = Shell(lab.environment).run("gateway", "start", "--http", lab.tcp.removeprefix("tcp://"))

    assert taken.returncode == 1 and "cannot be listened at" in taken.stdout + taken.stderr
