"""Dead letters through the API: which queues, which ids, and what a retried message becomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from asynctasq import Worker, deadletters, dispatch_many, init, task
from asynctasq.app import current
from asynctasq.brokers import Action, DeadLetter, Outcome, Outgoing
from asynctasq.cli import cli
from asynctasq.sending.preparing import prepare
from asynctasq.wire.message import Message
from click.testing import CliRunner

KEY = b"0123456789abcdef"


@task(queue="bills", max_attempts=1)
async def fail(n: int) -> None:
    raise ValueError(f"broken {n}")


@pytest.fixture(autouse=True)
async def _app() -> AsyncIterator[None]:
    init(driver="memory", signing_key=KEY)
    yield
    init(driver="memory")


async def work(*queues: str) -> None:
    await Worker(queues=queues or ("bills", "other"), burst=True).run()


async def test_each_says_what_happened_and_when() -> None:
    handle = await fail(1).dispatch()
    await work()
    (letter,) = await deadletters.list_dead()
    assert (letter.id, letter.queue, letter.task) == (handle.id, "bills", fail.name)
    assert letter.error == "ValueError: broken 1"
    assert "raise ValueError" in letter.traceback
    assert (letter.attempts, letter.deliveries) == (1, 1)
    assert letter.reason
    assert letter.payload_bytes > 0
    assert letter == await deadletters.show(handle.id)
    assert letter == await deadletters.show(handle.id, "bills")
    assert await deadletters.show(handle.id, "other") is None
    assert await deadletters.show("unknown") is None


async def test_pages_go_across_queues_in_order() -> None:
    for queue in ("bills", "other"):
        for n in range(3):
            await fail(n).on_queue(queue).dispatch()
    await work()
    everything = await deadletters.list_dead()
    assert [letter.queue for letter in everything] == ["bills"] * 3 + ["other"] * 3
    paged = [(await deadletters.list_dead(limit=1, offset=i))[0] for i in range(6)]
    assert paged == everything
    assert await deadletters.list_dead(limit=4, offset=1) == everything[1:5]
    assert await deadletters.list_dead(offset=6) == []
    assert await deadletters.list_dead("other") == everything[3:]


async def test_a_retry_keeps_the_id_and_starts_over() -> None:
    handle = await fail(1).max_attempts(2).retry_after(0).dispatch()
    await work()
    assert (await deadletters.list_dead())[0].attempts == 2
    assert await deadletters.retry("bills", [handle.id, "unknown"]) == 1
    assert await handle.status() == "waiting"
    await work()
    (letter,) = await deadletters.list_dead()
    assert (letter.id, letter.attempts) == (handle.id, 2)


async def test_groups_are_of_one_task_and_one_type_of_error() -> None:
    for n in range(3):
        await fail(n).dispatch()
    await fail(3).on_queue("other").dispatch()
    await current().open_broker().put([Outgoing("other", "x", b"garbage")])
    await work()
    groups, looked_at = await deadletters.groups()
    assert looked_at == 5
    first, second = groups
    assert (first.task, first.error, first.count) == (fail.name, "ValueError", 4)
    assert first.example.startswith("ValueError: broken ")
    assert first.oldest <= first.newest
    assert (second.task, second.error, second.count) == ("", "BadSignature", 1)
    for group in groups:
        found = await deadletters.list_dead(where=deadletters.Filter(**group.filter))
        assert len(found) == group.count
    (only,), looked_at = await deadletters.groups("bills", most=2)
    assert (only.count, looked_at) == (2, 2)
    where = deadletters.Filter(error="broken 1")
    assert [group.count for group in (await deadletters.groups(where=where))[0]] == [1]


async def test_a_search_ends_before_it_has_seen_all() -> None:
    for n in range(1600):
        await fail(n).dispatch()
    await work()
    where = deadletters.Filter(error="broken 1599")
    assert [letter.error for letter in (await deadletters.search(where=where))[0]] == [
        "ValueError: broken 1599"
    ]
    where = deadletters.Filter(error="broken 0")
    assert await deadletters.search(where=where, most=1000) == ([], False)
    found, is_all = await deadletters.search(where=where)
    assert (len(found), is_all) == (1, True)
    found, is_all = await deadletters.search(limit=2, most=1)
    assert (len(found), is_all) == (2, True)


async def test_a_group_is_found_again_whatever_its_task_is_called() -> None:
    strange = task(name="a[b]*?", queue="bills", max_attempts=1)(_break)
    await strange().dispatch()
    await work()
    (group,), _ = await deadletters.groups()
    assert len(await deadletters.list_dead(where=deadletters.Filter(**group.filter))) == 1


async def _break() -> None:
    raise ValueError


async def test_whoever_waits_hears_how_far_it_has_come() -> None:
    for n in range(1203):
        await fail(n).dispatch()
    await work()
    told: list[int] = []
    assert await deadletters.retry(where=deadletters.Filter(), on_progress=told.append) == 1203
    assert told == [500, 1000, 1203]
    await work()
    assert await deadletters.purge(where=deadletters.Filter(), on_progress=told.append) == 1203
    assert told[3:] == [500, 1000, 1203]


async def test_arguments_that_are_not_shown_cannot_be_searched() -> None:
    await fail(1).dispatch()
    await work()
    where = deadletters.Filter(arguments="n=1")
    assert len(await deadletters.list_dead(where=where)) == 1
    body = prepare(fail(1), current().config, current().adapters).outgoing.body
    letter = DeadLetter("bills", "x", body, b"", 0)
    assert where.fits(letter)
    init(driver="memory", signing_key=KEY, show_arguments=False)
    assert not where.fits(letter)


async def test_a_retry_of_all_takes_each_once() -> None:
    for n in range(1203):
        await fail(n).dispatch()
    await work()
    assert await deadletters.retry("other") == 0
    assert await deadletters.retry() == 1203
    assert await deadletters.retry() == 0
    assert (await current().open_broker().stats())[0].waiting == 1203


async def test_what_cannot_be_read_is_still_listed_retried_as_it_is_and_purged() -> None:
    broker = current().open_broker()
    await broker.put([Outgoing("bills", "x", b"garbage")])
    await work()
    (letter,) = await deadletters.list_dead()
    assert (letter.id, letter.task) == ("x", "")
    assert await deadletters.retry(ids=["x"]) == 1
    await work()
    [raw] = await broker.find_dead("bills", ["x"])
    assert raw.body == b"garbage"
    assert await deadletters.purge() == 1
    assert await deadletters.list_dead() == []


async def test_a_retry_never_signs_what_was_not_signed() -> None:
    forged = Message("y", fail.name, b"", 0.0).encode()
    broker = current().open_broker()
    await broker.put([Outgoing("bills", "y", forged)])
    await work()
    await deadletters.retry()
    await work()
    (letter,) = await deadletters.list_dead()
    assert "BadSignature" in letter.error


def test_a_field_is_shown_in_one_line_whatever_it_holds() -> None:
    @task(name="lines", max_attempts=1)
    async def lines() -> None:
        raise ValueError("first\nreason:       forged")

    async def run() -> str:
        handle = await lines().dispatch()
        await work("default")
        return handle.id

    shown = CliRunner().invoke(cli, ["dead", "show", asyncio.run(run())])
    assert shown.exit_code == 0
    fields, _, traceback = shown.output.partition("\n\n")
    assert [line.split(":")[0] for line in fields.splitlines()].count("reason") == 1
    assert "error:         ValueError: first\\nreason:       forged" in fields
    assert "\nreason:       forged" in traceback


async def test_info_of_another_kind_does_not_hide_a_letter() -> None:
    from asynctasq.brokers import ConsumerOptions, WorkerInfo

    broker = current().open_broker()
    await broker.put([Outgoing("bills", "z", b"body")])
    info = WorkerInfo("w", "host", 1, ("bills",), 1, 0.0)
    consumer = broker.consumer(ConsumerOptions(info, ("bills",)))
    await consumer.start()
    (delivery,) = await consumer.take(1, 1.0)
    await consumer.settle([Outcome(delivery, Action.DEAD, info=b"\xc1 no msgpack")])
    await consumer.stop()
    (letter,) = await deadletters.list_dead()
    assert (letter.id, letter.reason) == ("z", "")
    assert await deadletters.purge("bills", ["z"]) == 1


@task(queue="bills", name="shop.pay", retry_on=OSError)
async def pay(order: int, *, note: str = "") -> None:
    raise ValueError(note)


async def two_kinds() -> tuple[str, str]:
    failed, paid = await fail(1).dispatch(), await pay(2, note="no money").dispatch()
    await work()
    return failed.id, paid.id


async def test_each_shows_its_arguments_by_the_names_of_the_task() -> None:
    _, paid = await two_kinds()
    letter = await deadletters.show(paid)
    assert letter is not None
    assert letter.arguments == "order=2, note='no money'"


async def test_a_setting_hides_arguments() -> None:
    init(driver="memory", show_arguments=False)
    await two_kinds()
    assert {letter.arguments for letter in await deadletters.list_dead()} == {""}


async def test_what_no_key_of_ours_signed_shows_no_arguments() -> None:
    forged = Message("y", fail.name, b"\x92\x91\x01\x80", 0.0)
    broker = current().open_broker()
    await broker.put([Outgoing("bills", "y", forged.encode())])
    await work()
    assert (await deadletters.list_dead())[0].arguments == ""
    await deadletters.purge()
    await broker.put([Outgoing("bills", "y", forged.encode([KEY]))])
    await work()
    assert (await deadletters.list_dead())[0].arguments == "n=1"


async def test_filters_choose_by_task_reason_and_age() -> None:
    failed, paid = await two_kinds()

    async def chosen(where: deadletters.Filter) -> list[str]:
        return [letter.id for letter in await deadletters.list_dead(where=where)]

    reasons = {letter.id: letter.reason for letter in await deadletters.list_dead()}
    assert reasons[failed] != reasons[paid]
    assert await chosen(deadletters.Filter(task=fail.name)) == [failed]
    assert await chosen(deadletters.Filter(task="shop.*")) == [paid]
    assert await chosen(deadletters.Filter(task="shop")) == []
    assert await chosen(deadletters.Filter(reason=reasons[paid].upper())) == [paid]
    assert await chosen(deadletters.Filter(older_than=timedelta(hours=1))) == []
    assert await chosen(deadletters.Filter(older_than=timedelta())) == [paid, failed]
    assert await chosen(deadletters.Filter(task="shop.*", reason=reasons[failed])) == []


async def test_pages_count_only_what_a_filter_chooses() -> None:
    for n in range(4):
        for queue in ("bills", "other"):
            await dispatch_many([fail(n).on_queue(queue), pay(n).on_queue(queue)])
    await work()
    where = deadletters.Filter(task="shop.*")
    everything = await deadletters.list_dead(where=where)
    assert [letter.task for letter in everything] == ["shop.pay"] * 8
    paged = [(await deadletters.list_dead(limit=1, offset=i, where=where))[0] for i in range(8)]
    assert paged == everything
    assert await deadletters.list_dead(limit=4, offset=2, where=where) == everything[2:6]


async def test_a_filter_chooses_what_is_retried_or_purged() -> None:
    for n in range(600):
        await dispatch_many([fail(n), pay(n)])
    await work()
    assert await deadletters.retry(where=deadletters.Filter(task="shop.*")) == 600
    assert {letter.task for letter in await deadletters.list_dead(limit=600)} == {fail.name}
    assert await deadletters.purge("other", where=deadletters.Filter(task=fail.name)) == 0
    assert await deadletters.purge(where=deadletters.Filter(reason="no such reason")) == 0
    assert await deadletters.purge(where=deadletters.Filter(task=fail.name)) == 600
    assert await deadletters.list_dead() == []


def test_the_command_filters_and_hides_arguments() -> None:
    failed, paid = asyncio.run(two_kinds())

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["dead", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    (listed,) = json.loads(run("list", "--task", "shop.*", "--json"))
    assert (listed["id"], listed["arguments"]) == (paid, "order=2, note='no money'")
    (listed,) = json.loads(run("list", "--task", "shop.*", "--json", "--no-arguments"))
    assert listed["arguments"] == ""
    assert "n=1" in run("list")
    assert "n=1" not in run("list", "--no-arguments")
    assert json.loads(run("list", "--json", "--error", "BROKEN", "--arguments", "n=1"))
    assert json.loads(run("list", "--json", "--error", "broken", "--arguments", "n=2")) == []
    assert "arguments:     n=1\n" in run("show", failed)
    assert "n=1" not in run("show", failed, "--no-arguments")
    assert run("retry", "--task", fail.name, "--older-than", "7d") == "retried 0 dead letters\n"
    assert run("retry", "--task", fail.name, "--older-than", "0s") == "retried 1 dead letter\n"
    assert run("purge", "--reason", "error") == "deleted 1 dead letter\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("purge", "--all", "--task", "x"), "give either ids"),
        (("retry", "some-id", "--reason", "x"), "give either ids"),
        (("list", "--older-than", "7 weeks"), "'7 weeks' is not an age such as 90s"),
        (("list", "--older-than", "-1d"), "'-1d' is not an age"),
        (("list", "--older-than", "nand"), "'nand' is not an age"),
    ],
)
def test_choices_that_make_no_sense_are_refused(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(cli, ["dead", *arguments])
    assert done.exit_code == 2
    assert said in done.output
