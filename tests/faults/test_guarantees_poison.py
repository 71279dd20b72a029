"""Bytes that others wrote into Redis or the queue file: dead letters, and the workers go on."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import msgpack
import psycopg
import pytest
import redis
from asynctasq.wire.message import Message
from psycopg.sql import SQL, Identifier

from .deployments import Deployment, eventually, reason_of

Put = Callable[[Sequence[tuple[Any, Any]]], None]
"""Writes messages, each an id and a body, past everything that checks them."""


@pytest.fixture
def put(deployment: Deployment) -> Put:
    def put_sqlite(messages: Sequence[tuple[Any, Any]]) -> None:
        path = deployment.settings["ASYNCTASQ_SQLITE_PATH"]
        with closing(sqlite3.connect(path)) as db, db:
            [number] = db.execute("SELECT number FROM queue WHERE name = 'default'").fetchone()
            [place] = db.execute("SELECT ifnull(max(place), 0) FROM message").fetchone()
            db.executemany(
                "INSERT INTO message (place, queue, id, state, at, body) VALUES (?, ?, ?, 2, 0, ?)",
                [(place + i, number, *message) for i, message in enumerate(messages, 1)],
            )

    def put_redis(messages: Sequence[tuple[Any, Any]]) -> None:
        stream = f"{deployment.settings['ASYNCTASQ_REDIS_KEY_PREFIX']}:{{default}}:stream"
        with redis.Redis.from_url(deployment.settings["ASYNCTASQ_REDIS_URL"]) as client:
            for message_id, body in messages:
                client.xadd(stream, {"id": message_id, "body": body})

    def put_postgres(messages: Sequence[tuple[Any, Any]]) -> None:
        schema = deployment.settings["ASYNCTASQ_POSTGRES_SCHEMA"]
        ids, bodies = zip(*messages, strict=True)
        with psycopg.connect(deployment.settings["ASYNCTASQ_POSTGRES_URL"]) as connection:
            connection.execute(
                SQL(
                    "SELECT {}.put(array_fill('default'::text, ARRAY[n]), %s, %s,"
                    " array_fill(NULL::float8, ARRAY[n]), array_fill(0::smallint, ARRAY[n]))"
                    " FROM (SELECT %s::int AS n) AS count"
                ).format(Identifier(schema)),
                (list(ids), list(bodies), len(ids)),
            )

    puts = {"sqlite": put_sqlite, "redis": put_redis, "postgres": put_postgres}
    return puts[deployment.settings["ASYNCTASQ_DRIVER"]]


def message(message_id: str, *args: object, **changes: Any) -> bytes:
    values = {"id": message_id, "task": "fault_tasks.work", "enqueued_at": 0.0, **changes}
    values.setdefault("payload", msgpack.packb([list(args), {}]))
    return Message(**values).encode()


def reference(orm: str, path: str) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb({f"__orm:{orm}__": 1, "__orm_class__": path}))


SOUND = message("sound", 7)

POISON: dict[str, tuple[bytes, str]] = {
    "garbage": (b"\x00\xff garbage", "InvalidMessage"),
    "empty": (b"", "InvalidMessage"),
    "truncated": (SOUND[:-3], "InvalidMessage"),
    "pickle": (b"\x80\x04\x95\x1a\x00\x00\x00posix\x94system\x94", "InvalidMessage"),
    "version": (msgpack.packb([99, *msgpack.unpackb(SOUND)[1:]]), "UnsupportedVersion"),
    "task": (message("task", 1, task="os.system"), "UnknownTask"),
    "foreign-id": (message("another", 1), "InvalidMessage"),
    "arguments": (message("arguments", 1, 2, 3, 4), "UnknownArguments"),
    "no-arguments": (message("no-arguments"), "UnknownArguments"),
    "orm": (message("orm", reference("nosuch", "a.B")), "UnknownModel"),
    "deep": (message("deep", payload=b"\x92\x91" + b"\x91" * 100_000 + b"\xc0\x80"), "Invalid"),
    "bomb": (message("bomb", payload=b"\x92\xdd\xff\xff\xff\xff\x80"), "InvalidMessage"),
    "huge": (message("huge", "x" * 2_000_000), "InvalidMessage"),
}


def test_poison_is_dead_lettered_once_with_its_reason_and_the_worker_goes_on(
    deployment: Deployment, put: Put
) -> None:
    worker = deployment.start_worker("--lease", "2", ASYNCTASQ_UNKNOWN_FOR="0.1")
    deployment.dispatch("work(1)")
    put([(name, body) for name, (body, _) in POISON.items()])
    deployment.dispatch("work(2)")
    eventually(lambda: deployment.counts() == {"dead": len(POISON)})
    letters = {letter.id: reason_of(letter) for letter in deployment.dead_letters()}
    assert letters.keys() == POISON.keys()
    for name, (_, error) in POISON.items():
        assert letters[name]["reason"] == "the message cannot be run", name
        assert error in letters[name]["error"].partition(":")[0], name
    assert deployment.times("ended") == {1: 1, 2: 1}
    assert worker.poll() is None
    # Each was given up once: one line for each, and nothing of what they carry.
    log = deployment.log()
    lines = [line for line in log.splitlines() if "task dead" in line]
    given_up = Counter(name for name in POISON for line in lines if f"id={name} " in line)
    assert given_up == dict.fromkeys(POISON, 1)
    assert "xxxxxxxx" not in log


def test_thousands_of_mutated_messages_harm_no_worker(deployment: Deployment, put: Put) -> None:
    deployment.dispatch("work(1)")
    dice = random.Random(4711)
    bodies = []
    for _ in range(3000):
        body = bytearray(SOUND)
        for _ in range(dice.randint(1, 4)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        bodies.append(bytes(body))
    put([(f"m{i}", body) for i, body in enumerate(bodies)])
    assert deployment.run_worker("--burst", "--concurrency", "50", "--log-level", "error") == 0
    # None has its own id in the body, so none may run.
    assert deployment.counts() == {"dead": len(bodies)}
    assert deployment.times("ended") == {1: 1}


def test_rows_of_other_types_are_dead_lettered(sqlite_deployment: Deployment) -> None:
    sqlite_deployment.dispatch("work(1)")
    with closing(sqlite3.connect(sqlite_deployment.settings["ASYNCTASQ_SQLITE_PATH"])) as db, db:
        put = "INSERT INTO message (place, queue, id, state, at, body) VALUES (?, 1, ?, 2, 0, ?)"
        db.executemany(put, [(1, "number", 5), (2, "text", "words"), (3, "real", 0.5)])
    assert sqlite_deployment.run_worker("--burst") == 0
    letters = sqlite_deployment.dead_letters()
    assert {letter.id for letter in letters} == {"number", "text", "real"}
    assert sqlite_deployment.times("ended") == {1: 1}


def test_entries_with_other_fields_are_dead_lettered(redis_deployment: Deployment) -> None:
    redis_deployment.dispatch("work(1)")
    settings = redis_deployment.settings
    stream = f"{settings['ASYNCTASQ_REDIS_KEY_PREFIX']}:{{default}}:stream"
    with redis.Redis.from_url(settings["ASYNCTASQ_REDIS_URL"]) as client:
        client.xadd(stream, {"job": "mine"})
        client.xadd(stream, {"id": b"\xff\xfe", "body": SOUND})
        client.xadd(stream, {"a": 1, "b": 2, "c": 3})
    assert redis_deployment.run_worker("--burst") == 0
    assert redis_deployment.counts() == {"dead": 3}
    assert redis_deployment.times("ended") == {1: 1}
