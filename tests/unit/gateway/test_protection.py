"""Which requests are not even listened to, and which addresses need no TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from starlette.datastructures import Headers

from orbit_gateway.protection import is_ours, refusal
from orbit_gateway.tls import certificate_for, given_certificate, is_loopback
from orbit_zmq.errors import InvalidArgument

NAMES = {"localhost", "bridge"}


def refused(method: str = "GET", **lines: str) -> bool:
    headers = {"host": "localhost", **{name.replace("_", "-"): text for name, text in lines.items()}}
    raw = [(name.encode(), text.encode()) for name, text in headers.items()]
    return refusal(Headers(raw=raw), {"method": method}, NAMES) is not None


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "bridge", "bridge.", "127.0.0.1:1", "[::1]", "[::1]:8000", "10.0.0.7"]
)
def test_our_names_and_all_addresses_are_ours(host: str) -> None:
    assert is_ours(host, NAMES)


@pytest.mark.parametrize(
    "host", ["", ":8000", "evil.example", "127.0.0.1.evil.example", "localhost.evil", "bridge@evil", "[::1", "1"]
)
def test_other_names_are_not(host: str) -> None:
    assert not is_ours(host, NAMES)


def test_pages_of_ours_may_call_and_others_may_only_lead_here() -> None:
    assert not refused("POST", origin="http://localhost", sec_fetch_site="same-origin")
    assert not refused("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert refused("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert refused("GET", sec_fetch_site="same-site", sec_fetch_mode="no-cors")
    assert refused("POST", origin="http://localhost:9")
    assert refused("POST", origin="null")
    assert refused("GET", host="evil.example", origin="http://evil.example")


def test_a_request_with_two_lengths_is_refused() -> None:
    assert refused("POST", content_length="5", transfer_encoding="chunked")


def test_a_certificate_of_its_own_is_used_again_until_its_names_change(tmp_path: Path) -> None:
    made = certificate_for(tmp_path, "0.0.0.0", ["bridge.example"])

    assert certificate_for(tmp_path, "0.0.0.0", ["bridge.example"]) == made
    assert given_certificate(made.certificate, made.key) == made
    assert made.key.stat().st_mode & 0o077 == 0
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(made.certificate, made.key)
    other = certificate_for(tmp_path, "10.0.0.7", ["bridge.example"])
    assert other.fingerprint != made.fingerprint


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no certificate")
    with pytest.raises(InvalidArgument, match="no certificate"):
        given_certificate(tmp_path / "a", tmp_path / "b")


def test_a_key_of_another_certificate_or_with_a_passphrase_is_refused_without_a_question(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (certificate_for(tmp_path / name, "10.0.0.7", []) for name in ("one", "two"))
    key = serialization.load_pem_private_key(one.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (tmp_path / "locked").write_bytes(locked)

    for wrong in (two.key, tmp_path / "locked"):
        with pytest.raises(InvalidArgument, match="belong together"):
            given_certificate(one.certificate, wrong)


def test_loopback_is_where_only_this_machine_is() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.7", "bridge"))
