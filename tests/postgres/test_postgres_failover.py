"""P1: a replica that lags takes the server's place, so table and markers go back together."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

import pytest
from counts_job import expected, make_tables, run, shown
from lives import Life
from services.postgres import PostgresReplica, PostgresServer
from services.process import ServerUnavailableError

pytestmark = pytest.mark.usefixtures("crash_points")


@pytest.fixture
def primary():
    """A server of the test's own, which will not come back."""
    try:
        server = PostgresServer(settings={"fsync": "off"})
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with server:
        make_tables(server.dsn)
        yield server


@pytest.fixture
def replica(primary):
    """Of the primary."""
    with PostgresReplica(primary) as replica:
        yield replica


def either(*servers):
    """A DSN of whichever of them takes writes."""
    return f"postgresql://postgres@{','.join(urlsplit(each.dsn).netloc.split('@')[1] for each in servers)}/postgres"


def killed_after_a_checkpoint(root, dsn):
    """Slow enough that there is more to come."""
    life = Life(partial(run, root, dsn, pace_s=0.3), CRASH_AT="postgres.post_commit:2")
    assert life.wait() == "killed", life.error


def test_p1_a_replica_that_has_all_of_it_goes_on(tmp_path, primary, replica):
    """Kind: a promotion that is taken for a loss, and an old primary that comes back and takes what is lost then."""
    killed_after_a_checkpoint(tmp_path, either(primary, replica))
    replica.follow()
    primary.kill()
    replica.promote()
    life = Life(partial(run, tmp_path, either(primary, replica)))
    assert life.wait() == "done", life.error
    assert shown(replica.dsn) == expected()
    primary.start()
    before = shown(primary.dsn)
    life = Life(partial(run, tmp_path, primary.dsn))
    assert life.wait() == "SinkError"
    assert "was replaced by a replica" in life.error
    assert shown(primary.dsn) == before


def replica_lacks(checkpoints, root, primary, replica):
    """The last checkpoints of the job."""
    dsn = either(primary, replica)
    killed_after_a_checkpoint(root, dsn)
    replica.follow()
    replica.detach()
    for _ in range(checkpoints):
        killed_after_a_checkpoint(root, dsn)
    primary.kill()
    replica.promote()
    assert shown(replica.dsn)["counted"]
    return dsn


def test_p1_what_a_replica_lacks_is_written_again_while_the_job_has_it(tmp_path, primary, replica):
    """Kind: checkpoints that were committed, are lost, and count as written."""
    life = Life(partial(run, tmp_path, replica_lacks(2, tmp_path, primary, replica)))
    assert life.wait() == "done", life.error
    assert shown(replica.dsn) == expected()


def test_p1_a_replica_that_lacks_more_is_refused(tmp_path, primary, replica):
    """Kind: output that is lost for good, and what came after it is written all the same, at the tenth attempt."""
    dsn = replica_lacks(3, tmp_path, primary, replica)
    there = shown(replica.dsn)
    for _ in range(2):
        life = Life(partial(run, tmp_path, dsn))
        assert life.wait() == "SinkError"
        assert "is older than the job's state" in life.error
        assert shown(replica.dsn) == there
