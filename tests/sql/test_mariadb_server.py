"""The server that tests get keeps what was committed across a kill, and a machine that cannot run one says so."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from services.mariadb import MariaDBServer
from services.process import ServerUnavailableError


def test_committed_rows_survive_a_kill_of_the_server(mariadb_url, mariadb):
    """Kind: a server that loses its data at a kill would make every test of downtime a test of nothing."""
    engine = sa.create_engine(mariadb_url)
    with engine.begin() as session:
        session.execute(sa.text("create table kept (number int)"))
        session.execute(sa.text("insert into kept values (1)"))
    before = mariadb.pid
    mariadb.kill()
    with pytest.raises(sa.exc.OperationalError), engine.connect() as session:
        session.execute(sa.text("select 1"))
    mariadb.start()
    assert mariadb.pid != before
    with engine.connect() as session:
        assert session.execute(sa.text("select * from kept")).all() == [(1,)]
    engine.dispose()


def test_a_machine_without_mariadb_says_so(monkeypatch):
    """Kind: a newcomer without the programs does not learn what to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ServerUnavailableError, match="apt-get install mariadb-server-core"):
        MariaDBServer()
