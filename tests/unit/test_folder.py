"""Files in a server's folder."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from host.folder import private_file

ROOT = Path(__file__).parents[2]
WRITES = f"""
import resource, signal
from pathlib import Path
from host.folder import private_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, {resource.RLIM_INFINITY}))
private_file(Path("here"), "text")
"""


def test_a_private_file_is_its_owners_alone_whatever_the_umask(tmp_path):
    mask = os.umask(0)
    try:
        path = private_file(tmp_path / "key", "secret")
    finally:
        os.umask(mask)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("secret", 0o600)


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(OSError, match="gone/key"):
        private_file(tmp_path / "gone" / "key", "secret")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", WRITES], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "File too large: 'here'" in ended.stderr
