"""Who made an alarm: a detached Ed25519 signature beside its file.

`alarm.fmalign.sig` holds the 64 bytes that openssl makes of `alarm.fmalign`:

    openssl pkeyutl -sign -rawin -inkey key.pem \\
        -in alarm.fmalign -out alarm.fmalign.sig

so that either can check what the other has signed. `cryptography` is imported only
where something is signed or checked.
"""

from __future__ import annotations

import pathlib
from typing import Any

from fmalign_jax.data.files import replacing

SUFFIX = ".sig"

_BYTES = 64
_MOST_BYTES = 1 << 30  # of what is checked; no alarm is so large
_REMEDY = f"sign the alarm, or get it again together with its {SUFFIX}"


def path_of(path: pathlib.Path) -> pathlib.Path:
    """Returns where the signature of a file lies: beside it."""
    return path.with_name(path.name + SUFFIX)


def sign(path: pathlib.Path, key_path: pathlib.Path) -> None:
    """Writes the signature of a file beside it, whole or not at all.

    Args:
      path: what is signed.
      key_path: as `private_key`.

    Raises:
      ValueError: as `private_key`.
    """
    signature = private_key(key_path).sign(path.read_bytes())
    with replacing(path_of(path)) as temporary:
        temporary.write_bytes(signature)


def verify(path: pathlib.Path, public_key_path: pathlib.Path) -> bytes:
    """Returns the content of a file whose signature is right.

    To be read instead of the file, which may be another one by then.

    Args:
      path: what was signed.
      public_key_path: PEM of the Ed25519 public key of who may sign.

    Raises:
      ValueError: no such key, no signature, or one of another file or key;
        `cryptography` is not installed.
    """
    key = _key(public_key_path, private=False)
    content = _read(path, "a monitor needs an alarm", "give one that is signed")
    beside = path_of(path)
    signature = _read(beside, "a required signature lies beside the alarm", _REMEDY)
    if len(signature) != _BYTES:
        raise ValueError(
            f"{beside}: a signature must be the {_BYTES} raw bytes of Ed25519; got "
            f"{len(signature)} bytes; {_REMEDY}"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        raise ValueError(
            f"{path}: must be as the owner of {public_key_path} has signed it; got a "
            f"signature of another file or by another key; {_REMEDY}"
        ) from None
    return content


def private_key(path: pathlib.Path) -> Any:
    """Returns the Ed25519 private key of a PEM file (PKCS#8, without a password).

    Raises:
      ValueError: no such key; `cryptography` is not installed.
    """
    return _key(path, private=True)


def _key(path: pathlib.Path, *, private: bool) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ValueError(
            f"{path}: a signature needs the package cryptography; got none; "
            "pip install 'fmalign_jax[sign]'"
        ) from None
    wanted: type
    if private:
        wanted, name = ed25519.Ed25519PrivateKey, "private key without a password"
        remedy = "make one by openssl genpkey -algorithm ed25519 -out key.pem"
    else:
        wanted, name = ed25519.Ed25519PublicKey, "public key"
        remedy = "get it by openssl pkey -in key.pem -pubout -out plant.pub"
    rule = f"must be the PEM file of an Ed25519 {name}"
    content = _read(path, rule, remedy)
    try:
        if private:
            key: Any = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_pem_public_key(content)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        got = "one that cannot be read so"
    else:
        if isinstance(key, wanted):
            return key
        got = "a key of another kind"
    raise ValueError(f"{path}: {rule}; got {got}; {remedy}")


def _read(path: pathlib.Path, rule: str, remedy: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {rule}; got {error.strerror}; {remedy}") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path}: {rule}; got more than {_MOST_BYTES} bytes; {remedy}")
    return content
