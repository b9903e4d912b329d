"""The load of a PostgreSQL and a Redis, by their statistics and `/proc`: what they have done so far, and its rate."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import create_engine, text

from tests.helpers.processes import descendants_of

#: So long may a backend keep to itself what it has counted.
_UNTOLD_S = 1.1


@dataclass(frozen=True)
class Load:
    """Sums since the servers started, or rates by second, or what each of many adds."""

    transactions: float
    rows_written: float
    wal_kb: float
    database_cpu_s: float
    commands: float
    broker_sent_kb: float
    broker_cpu_s: float

    def __sub__(self, other: Load) -> Load:
        theirs = asdict(other)
        return Load(**{name: value - theirs[name] for name, value in asdict(self).items()})

    def __truediv__(self, number: float) -> Load:
        return Load(**{name: value / number for name, value in asdict(self).items()})

    def rounded(self) -> dict[str, float]:
        """For people: four digits that count."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Connections:
    """Connections that are open now."""

    database: int
    broker: int


class Servers:
    """The database and the broker of one service."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._engine = create_engine(database_url)
        self._broker = redis.Redis.from_url(broker_url)
        (folder,) = self._row("SHOW data_directory")
        self._postmaster = int((Path(folder) / "postmaster.pid").read_text().split()[0])

    def rates(self, seconds: float) -> Load:
        """What happens now, by second."""
        before, began = self.load(), time.perf_counter()
        time.sleep(seconds)
        return (self.load() - before) / (time.perf_counter() - began)

    def load(self) -> Load:
        """What they have done so far."""
        time.sleep(_UNTOLD_S)
        counted = self._row(
            "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
        told: dict[str, Any] = self._broker.info()
        return Load(
            transactions=float(counted[0]),
            rows_written=float(counted[1]),
            wal_kb=float(counted[2]) / 1024,
            database_cpu_s=sum(map(cpu_seconds, {self._postmaster, *descendants_of(self._postmaster)})),
            commands=told["total_commands_processed"],
            broker_sent_kb=told["total_net_output_bytes"] / 1024,
            broker_cpu_s=told["used_cpu_user"] + told["used_cpu_sys"],
        )

    def connections(self) -> Connections:
        """How many there are, those of this object left out."""
        (count,) = self._row("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return Connections(int(count) - 1, int(self._broker.info("clients")["connected_clients"]) - 1)

    def waiting_messages(self, queue: str) -> int:
        """Messages in the broker's list."""
        return int(self._broker.llen(queue))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
        self._broker.close()

    def _row(self, query: str) -> tuple[Any, ...]:
        with self._engine.connect() as connection:
            return tuple(connection.execute(text(query)).one())


def cpu_seconds(pid: int) -> float:
    """What a process and its children that have ended have computed; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
