"""Every example of the documentation runs, and prints what it says.

Blocks of one page run in order, in one directory. A ``python`` block is a program of its own (saved under the name in
its first line, if that is a comment ``# name.py``). In a ``console`` block lines after ``$`` are commands, and what
follows a command is what it prints: exactly, or with ``...`` on a line of its own for anything. Commands with a comment
behind them are for people (make targets) and are run by other tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("guide", "log", "metrics", "sql", "workers")),
]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in re.finditer(r"^```(python|console)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def run(command: list[str] | str, where: Path) -> str:
    """What a command prints; it must succeed."""
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        cwd=where,
        env=env,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command} in {where} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def run_python(block: Block, where: Path) -> None:
    named = re.match(r"# ([\w-]+\.py)\n", block.text)
    path = where / (named[1] if named else f"block-{block.line}.py")
    path.write_text(block.text)
    run([sys.executable, path.name], where)


def run_console(block: Block, where: Path) -> None:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        if "  #" in command:
            continue
        printed = run(command, where)
        pattern = re.escape(expected.rstrip("\n")).replace(r"\.\.\.", "(?s:.*)")
        assert re.fullmatch(pattern, printed.rstrip("\n")), f"{command} printed:\n{printed}\nand not:\n{expected}"


def postgres_environment(request, monkeypatch):
    """Programs find a real server where libpq looks for one."""
    for name, value in conninfo_to_dict(request.getfixturevalue("postgres_dsn")).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))


def redis_environment(request, monkeypatch):
    """Programs find a real server."""
    monkeypatch.setenv("REDIS_URL", request.getfixturevalue("redis_url"))


def kafka_environment(request, monkeypatch):
    """Programs find a real broker."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", request.getfixturevalue("kafka").bootstrap)


#: Page → what its programs need.
SERVERS = {
    "instances.md": kafka_environment,
    "kafka.md": kafka_environment,
    "postgres.md": postgres_environment,
    "redis.md": redis_environment,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, request, monkeypatch):
    if page.name in SERVERS:
        SERVERS[page.name](request, monkeypatch)
    for block in blocks(page):
        (run_python if block.kind == "python" else run_console)(block, tmp_path)


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_the_programs_of_a_page_run_twice_in_a_row(page, tmp_path):
    """Docs that are not true: most failed when they were run again, on what the first run had left."""
    for block in blocks(page):
        if block.kind == "python":
            for _ in range(2):
                run_python(block, tmp_path)


def test_the_programs_are_typed(tmp_path):
    """Docs that are not true: ``mypy --strict`` rejected functions of columns that the guide shows."""
    for page in PROGRAMS:
        for block in blocks(page):
            if block.kind == "python":
                named = re.match(r"# ([\w-]+\.py)\n", block.text)
                (tmp_path / f"{page.stem}_{named[1] if named else f'{block.line}.py'}").write_text(block.text)
    # pyarrow has no types of its own.
    options = ["--strict", "--disable-error-code=import-untyped", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    run([sys.executable, "-m", "mypy", *options, *sorted(path.name for path in tmp_path.glob("*.py"))], tmp_path)


def test_a_page_without_examples_is_not_taken_for_tested():
    assert len(blocks(ROOT / "README.md")) >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which does not exist"


def test_the_architecture_page_matches_the_tree():
    """Each directory and module that the map names exists, and each module of the core and the package is named."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:rust|python|tests|benches|examples|docs)/[\w./-]*)`", text))
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing
    for folder in ("rust/core/src", "rust/py/src", "python/onceflow"):
        for path in (ROOT / folder).iterdir():
            if (path.name.startswith("_") and path.name != "_native.pyi") or path.suffix == ".so":
                continue
            stem = path.name.removesuffix(".rs").removesuffix(".py")
            assert re.search(rf"`[^`\n]*\b{re.escape(stem)}\b[^`\n]*`", text), f"ARCHITECTURE.md does not name {path}"
