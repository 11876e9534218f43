"""A wheel works in an empty environment, away from the checkout."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from onceflow._native import CRASH_POINTS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built like the one that is published, but from the objects that the tests' build has made."""
    out = tmp_path_factory.mktemp("dist")
    features = ["--features", "crash-points"] if CRASH_POINTS else []
    # Test processes side by side would move the library away from under each other.
    with (ROOT / "target" / ".wheel-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(out, features)
    (found,) = out.glob("*.whl")
    return found


def _build(out: Path, features: list[str]) -> None:
    subprocess.run(
        [str(Path(sys.executable).with_name("maturin")), "build", "--quiet", *features, "--out", str(out)],
        cwd=ROOT,
        check=True,
        timeout=1200,
    )


def test_one_wheel_for_all_pythons_from_3_11(wheel):
    assert "-cp311-abi3-" in wheel.name


def test_what_the_wheel_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        headers = Parser().parsestr(archive.read(metadata).decode())
    needs = [need for need in headers.get_all("Requires-Dist") if "extra ==" not in need]
    assert sorted(need.split(">")[0].split("=")[0] for need in needs) == ["msgspec", "numpy", "rich", "typer"]
    assert {"onceflow/py.typed", "onceflow/_native.pyi", "onceflow/_native.abi3.so"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benches", "examples"))]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """With the wheel and what it needs, and nothing else."""
    made = tmp_path_factory.mktemp("environment")
    venv.create(made, with_pip=True)
    subprocess.run([made / "bin" / "python", "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=600)
    return made


def ran(environment: Path, command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    """The command in this environment; it must succeed."""
    clean = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=where, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_first_example_in_an_empty_environment(environment, tmp_path):
    example = README.split("```python\n", 1)[1].split("```", 1)[0]
    printed = README.split("$ python delays.py\n", 1)[1].split("$ ", 1)[0]
    (tmp_path / "delays.py").write_text(example)
    python = str(environment / "bin" / "python")
    assert ran(environment, [python, "delays.py"], tmp_path).stdout == printed
    resumed = ran(environment, ["onceflow", "run", "delays.py:flow", "--state", "state/"], tmp_path)
    assert "had finished already" in resumed.stderr


def test_the_programs_of_the_guide_in_an_empty_environment(environment, tmp_path):
    """Docs that are not true: in the checkout nobody notices what the wheel, or a dependency, does not bring."""
    python = str(environment / "bin" / "python")
    programs = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL | re.MULTILINE)
    # Columns need the extra "arrow".
    programs = [program for program in programs if "pyarrow" not in program and "as_columns" not in program]
    assert len(programs) > 4
    for number, program in enumerate(programs):
        named = re.match(r"# ([\w-]+\.py)\n", program)
        name = named[1] if named else f"program_{number}.py"
        (tmp_path / name).write_text(program)
        ran(environment, [python, name], tmp_path)
