"""`scripts/install.sh` with a Python that only notes what it is asked: which build of torch came is no failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "install.sh"
#: Notes its arguments, and lists the packages of $PACKAGES.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> asked.txt
[[ "$*" != *"pip list"* ]] || printf '%s\\n' $PACKAGES
"""


@pytest.mark.parametrize(
    ("cuda", "packages", "told"),
    [
        ("", "torch==2.13.0", False),
        ("", "torch==2.13.0 nvidia-cublas==13.1 nvidia_nccl==2.29", True),
        ("1", "torch==2.13.0 nvidia-cublas==13.1", False),
    ],
)
def test_a_torch_with_cuda_libraries_is_told_of_and_kept(tmp_path: Path, cuda: str, packages: str, told: bool) -> None:
    for name, text in (("python", PYTHON), ("sartor", "#!/usr/bin/env bash\necho sartor 0\n")):
        program = tmp_path / ".venv" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    script = tmp_path / "scripts" / "install.sh"
    script.parent.mkdir()
    shutil.copy(SCRIPT, script)
    done = subprocess.run(
        [str(script), "python"], env={**os.environ, "CUDA": cuda, "PACKAGES": packages}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("came with CUDA libraries" in done.stdout) == told
    assert "installed: sartor 0" in done.stdout
    assert f"--editable .[all{',gpu' if cuda else ''}]" in (tmp_path / "asked.txt").read_text()
