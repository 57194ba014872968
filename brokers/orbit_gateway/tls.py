"""TLS: a certificate of the gateway's own where nobody has given one, and which addresses need none.

The self-made certificate lies in the gateway's state directory and is used until shortly before its end; whoever connects
compares its fingerprint. Nothing here listens.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import read_private, write_private

CERTIFICATE, KEY = "gateway.crt", "gateway.key"
LIFE = datetime.timedelta(days=397)  # the longest that browsers take
RENEWED = datetime.timedelta(days=30)  # before the end


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files, and the SHA-256 of the certificate as hexadecimal pairs."""

    certificate: Path
    key: Path
    fingerprint: str


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def given_certificate(certificate: Path, key: Path) -> Certificate:
    """The one in these files; InvalidArgument where there is none, or the key is another one's or has a passphrase."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")  # nobody is there to be asked
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"{certificate} and {key} are no certificate and its key: {error}",
            hint="Give PEM files that belong together, the key without a passphrase.",
        ) from None
    return Certificate(certificate, key, _fingerprint(found))


def certificate_for(directory: Path, host: str, hosts: Iterable[str]) -> Certificate:
    """The self-made one for these names and addresses; a new one where the old one ends soon or has other names."""
    files = (directory / CERTIFICATE, directory / KEY)
    names = _names([host, *hosts])
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = x509.load_pem_x509_certificate(read_private(files[0]).encode())
        read_private(files[1])
        said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if found.not_valid_after_utc - RENEWED > _now() and set(said) == set(names):
            return Certificate(*files, _fingerprint(found))
    key = ec.generate_private_key(ec.SECP256R1())
    made = _made(key, names)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(files[1], secret.decode())
    write_private(files[0], made.public_bytes(serialization.Encoding.PEM).decode())
    return Certificate(*files, _fingerprint(made))


def _made(key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName]) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ORBIT-ZMQ gateway")])
    begins = _now() - datetime.timedelta(hours=1)  # clocks differ
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), begins, begins + LIFE)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.add_extension(usage, critical=False).sign(key, hashes.SHA256())


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    wanted = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts])
    return [_name(host) for host in wanted if host not in ("", "0.0.0.0", "::")]


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
