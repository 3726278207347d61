"""Who made an alarm: signatures by this package and by openssl, checked by both."""

import pathlib
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given, settings, strategies as st
from test_monitor import BLOCKED, SETTINGS, _lines, alarm_file as alarm_file, exported

from fmalign_jax import early_warning, monitor
from fmalign_jax.alarm import signature


def _write_keys(folder, key, name="plant", password=None):
    """Writes a key pair as openssl does; returns where (private, public)."""
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return _write_keys(folder, ed25519.Ed25519PrivateKey.generate())


@pytest.fixture
def signed(alarm_file, keys, tmp_path):
    path = pathlib.Path(shutil.copy(alarm_file, tmp_path / "alarm.fmalign"))
    signature.sign(path, keys[0])
    return path


def test_what_was_signed_is_returned(signed, keys):
    assert signature.path_of(signed).name == "alarm.fmalign.sig"
    assert signature.path_of(signed).stat().st_size == 64
    assert signature.verify(signed, keys[1]) == signed.read_bytes()


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7), of=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_other_bit_is_refused(alarm_file, keys, tmp_path_factory, place, bit, of):
    folder = tmp_path_factory.mktemp("flipped")
    path = pathlib.Path(shutil.copy(alarm_file, folder / "alarm.fmalign"))
    signature.sign(path, keys[0])
    changed = signature.path_of(path) if of else path
    data = bytearray(changed.read_bytes())
    data[place % len(data)] ^= 1 << bit
    changed.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"alarm\.fmalign: must be as the owner of"):
        signature.verify(path, keys[1])


def _no_signature(signed, keys, folder):
    signature.path_of(signed).unlink()
    return keys[1], r"alarm\.fmalign\.sig: a required signature .* No such file"


def _cut_signature(signed, keys, folder):
    beside = signature.path_of(signed)
    beside.write_bytes(beside.read_bytes()[:-1])
    return keys[1], "the 64 raw bytes of Ed25519; got 63 bytes"


def _written_signature(signed, keys, folder):
    beside = signature.path_of(signed)
    beside.write_text(beside.read_bytes().hex())
    return keys[1], "the 64 raw bytes of Ed25519; got 128 bytes"


def _no_alarm(signed, keys, folder):
    signed.unlink()
    return keys[1], "a monitor needs an alarm; got No such file"


def _grown_alarm(signed, keys, folder):
    with signed.open("ab") as file:
        file.write(b"\0")
    return keys[1], "of another file or by another key"


def _another_key(signed, keys, folder):
    other = ed25519.Ed25519PrivateKey.generate()
    return _write_keys(folder, other)[1], "of another file or by another key"


def _rsa_key(signed, keys, folder):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _write_keys(folder, other)[1], "got a key of another kind; get it by openssl"


def _private_key(signed, keys, folder):
    return keys[0], "Ed25519 public key; got one that cannot be read so"


def _no_key(signed, keys, folder):
    return folder / "none.pub", r"none\.pub: .* got No such file"


def _damaged_key(signed, keys, folder):
    path = folder / "cut.pub"
    path.write_bytes(keys[1].read_bytes()[:60])
    return path, r"cut\.pub: must be the PEM file .* got one that cannot be read so"


@pytest.mark.parametrize(
    "case",
    [
        *(_no_signature, _cut_signature, _written_signature, _no_alarm, _grown_alarm),
        *(_another_key, _rsa_key, _private_key, _no_key, _damaged_key),
    ],
)
def test_a_monitor_refuses_in_one_line_and_opens_nothing(
    signed, keys, tmp_path, monkeypatch, capsys, case
):
    key, message = case(signed, keys, tmp_path)
    monkeypatch.setattr(monitor.alarm_file, "load", None)
    given = ["--alarm", str(signed), "--require_signature", str(key), "--input", "-"]
    with pytest.raises(SystemExit) as ended:
        monitor.main(given)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pem", "got No such file"),
        ("plant.pub", "got one that cannot be read so"),
        ("locked.pem", "without a password; got one that cannot be read so"),
        ("rsa.pem", "got a key of another kind; make one by openssl genpkey"),
    ],
)
def test_a_key_to_sign_with_is_refused_unless_it_is_one(
    alarm_file, tmp_path, name, message
):
    own = ed25519.Ed25519PrivateKey.generate()
    _write_keys(tmp_path, own)
    _write_keys(tmp_path, own, "locked", b"secret")
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_keys(tmp_path, other, "rsa")
    with pytest.raises(ValueError, match=message):
        signature.sign(alarm_file, tmp_path / name)
    assert not signature.path_of(alarm_file).exists()


def _input(folder):
    source = folder / "current.csv"
    source.write_text("\n".join(_lines()))
    return str(source)


def _another_alarm(path, raise_at):
    """Writes an alarm with another level; keeps the program."""
    with exported.zipfile.ZipFile(path) as archive:
        program = archive.read("score.stablehlo")
    other = path.with_name("other.fmalign")
    exported.save(other, exported.with_level(SETTINGS, raise_at), program)
    return other


@pytest.mark.parametrize("how", ["replaced", "linked"])
def test_what_was_checked_is_what_runs(
    signed, keys, tmp_path, monkeypatch, capsys, how
):
    """Whoever exchanges the file behind the check has exchanged nothing."""
    other = _another_alarm(signed, 0.0)  # always on
    given = ["--alarm", str(signed), "--input", _input(tmp_path)]
    if how == "linked":
        target = signed.rename(tmp_path / "target.fmalign")
        signed.symlink_to(target)
    check = signature.verify

    def exchange(*arguments):
        content = check(*arguments)
        signed.unlink()
        other.rename(signed) if how == "replaced" else signed.symlink_to(other)
        return content

    monkeypatch.setattr(signature, "verify", exchange)
    monitor.main([*given, "--require_signature", str(keys[1])])
    assert "normal" in capsys.readouterr().out.splitlines()[5]
    monitor.main(given)  # the other one is there
    assert "ALARM" in capsys.readouterr().out.splitlines()[5]


def test_an_unsigned_alarm_runs_where_no_signature_is_asked_for(
    alarm_file, tmp_path, capsys
):
    monitor.main(["--alarm", str(alarm_file), "--input", _input(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 57


def test_no_alarm_is_made_that_would_be_refused(tmp_path, keys, monkeypatch, capsys):
    made = []

    def make(config):
        made.append(config.checkpoint)
        return {}, tmp_path / "early_warning"

    monkeypatch.setattr(early_warning, "early_warning", make)
    given = ["--checkpoint", str(tmp_path), "--input", "-"]
    given += ["--require_signature", str(keys[1])]
    with pytest.raises(SystemExit):
        monitor.main(given)
    assert "--config.signing_key=KEY" in capsys.readouterr().err
    assert not made
    # A signature that lies there already is asked what it says of what is made.
    (tmp_path / "early_warning").mkdir()
    (tmp_path / "early_warning" / "alarm.fmalign.sig").write_bytes(bytes(64))
    with pytest.raises(SystemExit):
        monitor.main(given)
    assert "a monitor needs an alarm; got No such file" in capsys.readouterr().err
    assert made == [str(tmp_path)]


def test_without_cryptography_the_remedy_is_said(signed, keys, tmp_path):
    script = BLOCKED.format(names={"cryptography"})
    command = [sys.executable, "-c", script, "--alarm", signed]
    command += ["--input", _input(tmp_path)]
    for more, status in (([], 0), (["--require_signature", keys[1]], 2)):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert "pip install 'fmalign_jax[sign]'" in line


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_openssl_signs_and_checks_the_same(alarm_file, tmp_path):
    def openssl(*arguments):
        command = ["openssl", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    key, public = tmp_path / "key.pem", tmp_path / "plant.pub"
    done = openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    assert done.returncode == 0, done.stderr
    done = openssl("pkey", "-in", key, "-pubout", "-out", public)
    assert done.returncode == 0, done.stderr
    path = pathlib.Path(shutil.copy(alarm_file, tmp_path / "alarm.fmalign"))
    beside = signature.path_of(path)
    utility = ("pkeyutl", "-rawin", "-in", path)
    done = openssl(*utility, "-sign", "-inkey", key, "-out", beside)
    assert done.returncode == 0, done.stderr
    theirs = beside.read_bytes()
    assert signature.verify(path, public) == path.read_bytes()
    beside.unlink()
    signature.sign(path, key)
    assert beside.read_bytes() == theirs
    check = (*utility, "-verify", "-pubin", "-inkey", public, "-sigfile", beside)
    assert "Verified Successfully" in openssl(*check).stdout
