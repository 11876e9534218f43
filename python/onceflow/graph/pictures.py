"""An explanation as a picture: text for Mermaid, and SVG by Graphviz."""

from __future__ import annotations

import shutil
import subprocess

from onceflow.exceptions import ConfigurationError, OnceflowError
from onceflow.graph.explanation import ExplainedStep, Explanation

__all__ = ["mermaid", "svg"]

_SHAPES = {"source": ('(["', '"])'), "operator": ('["', '"]'), "sink": ('[("', '")]')}
_DOT_SHAPES = {"source": "ellipse", "operator": "box", "sink": "cylinder"}
_TIMEOUT_S = 60


def mermaid(explanation: Explanation) -> str:
    """A flowchart for https://mermaid.js.org: sources round, sinks as drums, steps with state framed twice; a sink on
    a path that lacks something is red."""
    numbers = {step.step_id: f"s{number}" for number, step in enumerate(explanation.steps)}
    lines = ["flowchart LR"]
    for step in explanation.steps:
        before, after = ('[["', '"]]') if step.stateful else _SHAPES[step.role]
        lines.append(
            f"  {numbers[step.step_id]}{before}{'<br/>'.join(map(_mermaid_text, _label(explanation, step)))}{after}"
        )
    for edge in explanation.edges:
        told = _told(edge.side, edge.keyed_by)
        arrow = f'-->|"{_mermaid_text(told)}"|' if told else "-->"
        lines.append(f"  {numbers[edge.origin]} {arrow} {numbers[edge.target]}")
    lacking = [numbers[step_id] for step_id in _lacking(explanation)]
    if lacking:
        lines.append("  classDef lacking stroke:#c00,stroke-width:3px")
        lines.append(f"  class {','.join(lacking)} lacking")
    return "\n".join(lines)


def svg(explanation: Explanation) -> str:
    """The same as an SVG document.

    Raises:
        ConfigurationError: Graphviz is not there.
        OnceflowError: It failed.
    """
    program = shutil.which("dot")
    if program is None:
        raise ConfigurationError(
            "SVG is drawn by the program dot of Graphviz, which is not there: install graphviz (apt-get install "
            "graphviz, brew install graphviz), or take the format mermaid, which needs nothing"
        )
    drawn = subprocess.run(  # noqa: S603 - a program of the system, and no argument of a user's
        [program, "-Tsvg"], input=_dot(explanation), capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if drawn.returncode:
        raise OnceflowError(f"{program} failed with exit code {drawn.returncode}: {drawn.stderr.strip()}")
    return drawn.stdout


def _dot(explanation: Explanation) -> str:
    """A graph in the language of Graphviz."""
    numbers = {step.step_id: f"s{number}" for number, step in enumerate(explanation.steps)}
    lacking = _lacking(explanation)
    lines = [f"digraph {_quoted(explanation.dataflow)} {{", "  rankdir=LR; node [fontname=sans]; edge [fontname=sans];"]
    for step in explanation.steps:
        settings = [f"label={_quoted(*_label(explanation, step))}", f"shape={_DOT_SHAPES[step.role]}"]
        settings += ["peripheries=2"] if step.stateful else []
        settings += ['color="#cc0000"', "penwidth=3"] if step.step_id in lacking else []
        lines.append(f"  {numbers[step.step_id]} [{', '.join(settings)}];")
    for edge in explanation.edges:
        told = _told(edge.side, edge.keyed_by)
        label = f" [label={_quoted(told)}]" if told else ""
        lines.append(f"  {numbers[edge.origin]} -> {numbers[edge.target]}{label};")
    return "\n".join([*lines, "}"])


def _lacking(explanation: Explanation) -> list[str]:
    """The sinks at which a path ends that does not keep the guarantee."""
    return list(dict.fromkeys(path.sink for path in explanation.paths if not path.kept))


def _label(explanation: Explanation, step: ExplainedStep) -> list[str]:
    lines = [step.step_id, step.kind]
    if step.role == "sink":
        lacks = step.step_id in _lacking(explanation)
        lines.append(f"NOT {explanation.guarantee}" if lacks else str(explanation.guarantee))
    return lines


def _told(side: str | None, keyed_by: str | None) -> str:
    return ", ".join([*([side] if side else []), *([f"by {keyed_by}"] if keyed_by else [])])


def _mermaid_text(text: str) -> str:
    """Within quotes: what Mermaid or the HTML that it makes would take for something else, by its number."""
    return "".join(each if each.isalnum() or each in " _-.,:/'()" else f"#{ord(each)};" for each in text)


def _quoted(*lines: str) -> str:
    text = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return f'"{text}"'
