"""What a job's state says of its next run, before it starts: is it this dataflow's, and from where would it go on?"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

from onceflow._native import StateBackend
from onceflow.checks import Finding
from onceflow.exceptions import OnceflowError, StoreMissingError
from onceflow.graph.compatibility import differences, refuse_unnamed
from onceflow.graph.graph import Graph
from onceflow.runtime.job_record import JOB_BLOB, JobRecord
from onceflow.runtime.partitions import saved_positions
from onceflow.types import Guarantee, Plain

__all__ = ["resumption"]


def resumption(
    state: str | PathLike[str], graph: Graph, guarantee: Guarantee
) -> tuple[Finding, Mapping[str, Mapping[str, Plain]] | None]:
    """Looks at a state directory, beside a run too, and changes nothing.

    Args:
        state: The directory.
        graph: The dataflow, or an instance's part of it.
        guarantee: What the job is to promise.

    Returns:
        What was found; and by source and partition from where the next run goes on, None where nothing says it.
    """
    subject = f"state directory {state}"
    try:
        return _looked_up(state, graph, guarantee, subject)
    except StoreMissingError:
        return Finding("ok", subject, "is made by the first run"), None
    except OnceflowError as error:
        return Finding("error", subject, str(error)), None


def _looked_up(
    state: str | PathLike[str], graph: Graph, guarantee: Guarantee, subject: str
) -> tuple[Finding, Mapping[str, Mapping[str, Plain]] | None]:
    with StateBackend.open(state, job=graph.name, read_only=True, create=False, resume_from="none") as backend:
        checkpoints = backend.checkpoints()
    whole = [each for each in checkpoints if each.damage is None and JOB_BLOB in each.blobs]
    if not checkpoints:
        return Finding("ok", subject, "has no checkpoint yet: the next run begins at the beginning"), None
    if not whole or whole[-1].id != checkpoints[-1].id:
        text = f"the newest checkpoint cannot be read: {checkpoints[-1].damage or 'it is not of a dataflow'}"
        return Finding("error", subject, text, "see onceflow checkpoints verify DIR"), None
    newest = whole[-1]
    job = JobRecord.decode(newest.blobs[JOB_BLOB])
    if job.finished:
        text = f"the job has finished, with checkpoint {newest.id}: another run does nothing"
        return Finding("warning", subject, text), None
    if job.guarantee != str(guarantee):
        text = f"the job was started with guarantee={job.guarantee!r}, and this is {str(guarantee)!r}"
        return Finding("error", subject, text, "resume it with the former"), None
    refuse_unnamed(differences(job.steps, graph, job.settings), "refuse", job.done)
    positions = {step.step_id: saved_positions(newest.blobs, step.step_id) for step in graph.sources()}
    return Finding("ok", subject, f"a run goes on from checkpoint {newest.id}"), positions
