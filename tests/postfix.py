"""A private Postfix: its own configuration, queue and data in a folder, one port of this machine, one way out.

It takes mail for anybody, refuses whom it is told to refuse, and hands all else on to another server of this machine.
Nothing of the system's own Postfix is read or touched. Needs root, as Postfix does.
"""

import os
import pwd
import shutil
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import HOST, Certificate
from tests.support import free_port, wait_for_port

_PROGRAM = "/usr/sbin/postfix"
SIZE_LIMIT = 500_000

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = postfix.test
mydestination =
local_recipient_maps =
alias_maps =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
disable_dns_lookups = yes
message_size_limit = {size_limit}
relayhost = [{host}]:{next_port}
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {private}, {trusted}
smtpd_recipient_restrictions = check_recipient_access inline:{{ {refused} }}, permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
"""
_MASTER = """\
{host}:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
scache unix - - n - 1 scache
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


def needs_postfix() -> None:
    """Skips the test where there is no Postfix to be had; not in CI."""
    missing = not Path(_PROGRAM).exists()
    if (missing or os.geteuid() != 0) and os.environ.get("CI") != "true":
        pytest.skip("Postfix is not installed here" if missing else "Postfix must be started by root")


@contextmanager
def postfix(certificate: Certificate, *, next_port: int, refused: dict[str, str]) -> Iterator[int]:
    """Runs until the block ends, and gives its port. `refused`: what it answers to these recipients."""
    # Not in pytest's folder: Postfix gives up root, and could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="postfix-"))
    try:
        port = free_port()
        _configure(folder, certificate, port=port, next_port=next_port, refused=refused)
        with subprocess.Popen(
            [_PROGRAM, "-c", str(folder / "conf"), "start-fg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait_for_port(process, port)
                _wait_for_starttls(port, folder / "log")
                yield port
            finally:
                subprocess.run([_PROGRAM, "-c", str(folder / "conf"), "stop"], check=False, capture_output=True)
                process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_starttls(port: int, log: Path, timeout_seconds: float = 30.0) -> None:
    """Postfix serves without TLS where it cannot set that up, and its log says why; the tests want it with."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        with smtplib.SMTP(HOST, port, timeout=timeout_seconds) as session:
            session.ehlo()
            if session.has_extn("starttls"):
                return
    raise AssertionError(f"no STARTTLS within {timeout_seconds:g} s: {log.read_text()[-2000:]}")


def _configure(folder: Path, certificate: Certificate, *, port: int, next_port: int, refused: dict[str, str]) -> None:
    folder.chmod(0o755)
    for name in ("conf", "queue", "data"):
        (folder / name).mkdir()
    os.chown(folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
    rows = ", ".join(f"{{ {address} = {answer} }}" for address, answer in refused.items())
    main = _MAIN.format(
        folder=folder,
        host=HOST,
        next_port=next_port,
        size_limit=SIZE_LIMIT,
        trusted=certificate.trusted,
        private=certificate.private,
        refused=rows,
    )
    (folder / "conf" / "main.cf").write_text(main)
    (folder / "conf" / "master.cf").write_text(_MASTER.format(host=HOST, port=port))
