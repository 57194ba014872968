"""Sealed publications: what one event looks like on the way from the broker to whoever holds its audience's key.

Three frames: the topic `<tag>/<endpoint>/`, the key's id with the nonce, and header and body under ChaCha20-Poly1305 with the
first two as associated data. Without the key a publication is noise. No sockets, no clock; keys come from outside.
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from orbit_zmq.errors import ProtocolError

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
LAST_NONCE: Final = 1 << 48  # a key is replaced long before its nonces could come round
BARRIER: Final = b"b/"  # a subscription to it is echoed; nothing under it is sealed
_length = struct.Struct(">H")  # of the header, which is at most 4 KiB


class Sealer:
    """One key in the hands of the one who seals with it. No nonce is used twice: there is one sealer for each key."""

    __slots__ = ("_cipher", "_used", "key_id")

    def __init__(self, key_id: bytes, key: bytes) -> None:
        self.key_id = key_id
        self._cipher = ChaCha20Poly1305(key)
        self._used = 0

    @property
    def is_used_up(self) -> bool:
        return self._used >= LAST_NONCE

    def seal(self, topic: bytes, header: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
        """The three frames of one publication."""
        nonce = self._used.to_bytes(NONCE_BYTES, "big")
        self._used += 1
        mark = self.key_id + nonce
        return topic, mark, self._cipher.encrypt(nonce, _length.pack(len(header)) + header + body, topic + mark)


class Opener:
    """One key in the hands of a subscriber."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        try:
            self._cipher = ChaCha20Poly1305(key)
        except ValueError:
            raise ProtocolError(f"a key of an audience is {KEY_BYTES} bytes") from None

    def open(self, topic: bytes, mark: bytes, sealed: bytes) -> tuple[bytes, bytes]:
        """Header and body of a publication, or ProtocolError."""
        try:
            plain = self._cipher.decrypt(mark[KEY_ID_BYTES:], sealed, topic + mark)
        except (InvalidTag, ValueError):
            raise ProtocolError("a publication that was not sealed with this key") from None
        if len(plain) < _length.size:
            raise ProtocolError("a publication without a header")
        end = _length.size + _length.unpack_from(plain)[0]
        return plain[_length.size : end], plain[end:]


def topic_of(tag: str, endpoint: str = "") -> bytes:
    """What publications of an audience begin with: of all endpoints, or of one."""
    return f"{tag}/{endpoint}/".encode() if endpoint else f"{tag}/".encode()
