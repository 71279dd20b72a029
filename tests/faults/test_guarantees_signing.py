"""Signing keys in real processes: rotation, refusal, and no key or argument in any output."""

from __future__ import annotations

from .deployments import Deployment, eventually, reason_of

OLD = "the-old-key-that-nobody-may-see"
NEW = "the-new-key-that-nobody-may-see"


def key(*keys: str) -> dict[str, str]:
    return {"ASYNCTASQ_SIGNING_KEY": ",".join(keys)}


def test_keys_rotate_without_a_refused_message(deployment: Deployment) -> None:
    deployment.dispatch("work(1)", **key(OLD))
    deployment.dispatch("work(2)", **key(OLD, NEW))
    deployment.dispatch("work(3)", **key(NEW, OLD))
    deployment.dispatch("work(4)", **key(NEW))
    assert deployment.run_worker("--burst", **key(NEW, OLD)) == 0
    assert deployment.times("ended") == dict.fromkeys([1, 2, 3, 4], 1)
    assert deployment.counts() == {}


def test_unsigned_and_foreign_messages_are_refused_once(deployment: Deployment) -> None:
    deployment.dispatch("work(1)")
    deployment.dispatch("work(2)", **key(OLD))
    deployment.dispatch("work(3)", **key(NEW))
    assert deployment.run_worker("--burst", **key(NEW)) == 0
    letters = [reason_of(letter) for letter in deployment.dead_letters()]
    assert all(letter["error"].startswith("BadSignature") for letter in letters)
    assert deployment.counts() == {"dead": 2}
    assert deployment.times("ended") == {3: 1}


def test_a_retry_is_signed_anew(deployment: Deployment) -> None:
    deployment.dispatch("fail_once(1)", **key(OLD))
    assert deployment.run_worker("--burst", **key(NEW, OLD)) == 0
    assert deployment.times("ended") == {1: 1}


def test_results_are_signed_too(deployment: Deployment) -> None:
    worker = deployment.start_worker(**key(NEW))
    ask = (
        "async def main():\n"
        "    handle = await kept(7).dispatch()\n"
        "    print(await handle.result(timeout=30))\n"
        "asyncio.run(main())"
    )
    assert deployment.python(ask, **key(NEW)).strip() == "7"
    [message_id] = deployment.dispatch("kept(8)", **key(NEW))
    eventually(lambda: deployment.times("ended")[8] == 1)
    read = (
        "from asynctasq import BadSignature, TaskHandle\n"
        f"try:\n    print(asyncio.run(kept.handle({message_id!r}).result(timeout=5)))\n"
        "except BadSignature:\n    print('refused')"
    )
    assert deployment.python(read, **key(NEW)).strip() == "8"
    assert deployment.python(read, **key(OLD)).strip() == "refused"
    worker.terminate()
    assert worker.wait(20) == 0


def test_no_output_shows_a_key(deployment: Deployment) -> None:
    deployment.dispatch("work(1)", "fail(2)", "kept(3)", **key(NEW))
    deployment.dispatch("work(4)")
    for form in ("text", "json"):
        options = ("--burst", "--log-level", "debug", "--log-format", form)
        assert deployment.run_worker(*options, **key(NEW, OLD)) == 0
        deployment.dispatch("work(5)", "fail(6)", **key(NEW))
    shown = deployment.log()
    assert "task succeeded" in shown
    for command in (["status"], ["dead", "list"], ["dead", "list", "--json"], ["doctor"]):
        done = deployment.run(*command, **key(NEW, OLD))
        shown += done.stdout + done.stderr
    shown += deployment.python(
        "import asynctasq.app\nfrom asynctasq import Config\n"
        "app = asynctasq.app.current()\n"
        "print(app, repr(app.config), vars(app))",
        **key(NEW, OLD),
    )
    wrong = deployment.run("status", **key("short"))
    shown += wrong.stdout + wrong.stderr
    assert wrong.returncode == 1
    assert NEW not in shown
    assert OLD not in shown
    assert "short" not in wrong.stderr
