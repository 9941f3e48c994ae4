"""What type checkers see of pactor. Nobody runs this: mypy and pyright read it.

Each line that says ``type: ignore`` is an error that a user shall be told of. Both checkers complain where it is none:
mypy --strict by itself, and pyright by the comment below.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

import functools
import multiprocessing
from concurrent import futures

from typing_extensions import assert_type

from pactor import (
    Actor,
    ActorClosed,
    ActorDied,
    ActorError,
    CurrentActor,
    DeadlockError,
    Enqueue,
    EnqueueLater,
    Future,
    Mailbox,
    RemoteError,
    Restart,
    Timer,
    ask,
    current_actor,
    tell,
    watch,
)


class Counter:
    enqueue: Enqueue
    enqueue_later: EnqueueLater

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, n: int, *, twice: bool = False) -> None:
        self.value += n

    def total(self) -> int:
        return self.value

    def count_down(self, n: int) -> None:
        self.enqueue(self.add, -1)
        self.enqueue(self.add, -1, twice=True)
        self.enqueue("add", -1)  # type: ignore[arg-type]
        self.enqueue(self.add, "one")  # type: ignore[arg-type]
        self.enqueue(self.add)  # type: ignore[call-arg]
        if n > 1:
            timer = self.enqueue_later(0.5, self.count_down, n - 1)
            assert_type(timer, Timer)
            timer.cancel()
        self.enqueue_later(0.5, self.count_down, "n")  # type: ignore[arg-type]
        self.enqueue_later(self.total)  # type: ignore[call-arg, arg-type]


class Reader:
    """Takes a proxy as what it stands for, and a mailbox."""

    def __init__(self, counter: Counter, totals: Mailbox[int]) -> None:
        self.counter = counter
        self.totals = totals

    def read(self) -> None:
        self.totals.put(ask(self.counter.total).result(timeout=5))


class Watcher:
    """Watches another actor, and sends itself messages without a `self.enqueue`."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def on_start(self) -> None:
        watch(self.counter, self.counter_ended)
        watch(self.counter, self.something_ended)  # type: ignore[arg-type]
        watch(self.counter)  # type: ignore[call-arg]
        me = current_actor()
        assert_type(me, CurrentActor | None)
        if me:
            me.enqueue(self.counter_ended, self.counter, DeadlockError())

    def counter_ended(self, counter: Counter, reason: ActorError) -> None:
        raise reason

    def something_ended(self, something: int) -> None:
        pass


def a_policy_is_a_word_or_a_restart() -> None:
    Actor(Counter, on_failure="stop")
    Actor(Counter, on_failure=Restart())
    Actor(Counter, on_failure=Restart(max_restarts=10, within=60, backoff=0.5, max_backoff=30))
    Actor(Counter, on_failure="restart")  # type: ignore[call-overload]
    Restart(3, within="5")  # type: ignore[arg-type]


def an_actor_is_generic_in_what_it_wraps() -> None:
    assert_type(Actor(Counter(10)), Actor[Counter])
    assert_type(Actor(Counter), Actor[Counter])
    assert_type(Actor(functools.partial(Counter, 1)), Actor[Counter])
    assert_type(Actor(Counter).proxy, Counter)
    with Actor(Counter(10)) as counter:
        assert_type(counter, Actor[Counter])


def options() -> None:
    counter = Actor(Counter(), name="c", maxsize=8, on_failure="stop", context=multiprocessing.get_context("spawn"))
    assert_type(counter.name, str)
    assert_type(counter.pid, int)
    assert_type(counter.exitcode, "int | None")
    assert_type(counter.is_alive(), bool)
    assert_type(counter.join(timeout=1.5), bool)
    counter.close()
    counter.kill()
    counter.add(1)  # through the Actor itself it works, unseen by type checkers
    counter.name = "d"  # type: ignore[misc]
    Actor(Counter(), "c")  # type: ignore[call-overload]
    Actor(Counter(), maxsize="8")  # type: ignore[call-overload]


def a_tell_has_the_signature_of_the_method(counter: Actor[Counter]) -> None:
    counter.proxy.add(1)
    counter.proxy.add(1, twice=True)
    counter.proxy.add("one")  # type: ignore[arg-type]
    counter.proxy.add()  # type: ignore[call-arg]
    counter.proxy.reset()  # type: ignore[attr-defined]


def a_reply_has_the_type_that_the_method_returns(counter: Actor[Counter]) -> None:
    assert_type(ask(counter.proxy.total), Future[int])
    assert_type(ask(counter.proxy.total).result(timeout=5), int)
    assert_type(ask(counter.proxy.add, 1, twice=True), Future[None])
    assert_type(ask(counter.proxy.total).exception(), "BaseException | None")
    reply: futures.Future[int] = ask(counter.proxy.total)
    futures.wait([reply])


def an_ask_checks_the_arguments(counter: Actor[Counter]) -> None:
    ask(counter.proxy.add, "one")  # type: ignore[call-overload]
    ask(counter.proxy.add)  # type: ignore[call-overload]
    ask(counter.proxy.total())  # type: ignore[call-overload]


class Fetcher:
    """Has methods that reply later."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    async def fetch(self, url: str) -> bytes:
        return url.encode()

    def forward(self) -> Future[int]:
        return ask(self.counter.total)


def a_reply_that_comes_later_has_the_type_of_what_comes(counter: Actor[Counter]) -> None:
    fetcher = Actor(Fetcher(counter.proxy), concurrency=10)
    assert_type(ask(fetcher.proxy.fetch, "x"), Future[bytes])
    assert_type(ask(fetcher.proxy.forward), Future[int])
    ask(fetcher.proxy.fetch, 5)  # type: ignore[call-overload]
    Actor(Fetcher(counter.proxy), concurrency="10")  # type: ignore[call-overload]


async def a_coroutine_awaits_replies_and_room(counter: Actor[Counter]) -> None:
    assert_type(await ask(counter.proxy.total), int)
    await tell(counter.proxy.add, 1, twice=True)
    await tell(counter.proxy.add, "one")  # type: ignore[arg-type]
    await tell(counter.proxy.total())  # type: ignore[arg-type]
    tell(counter.proxy.add, 1)  # type: ignore[unused-coroutine]


def a_proxy_goes_wherever_its_class_does(counter: Actor[Counter]) -> None:
    totals = Mailbox[int](maxsize=3)
    reader = Actor(Reader(counter.proxy, totals))
    assert_type(reader, Actor[Reader])
    Reader(counter, totals)  # type: ignore[arg-type]


def a_mailbox_is_a_queue_of_its_items() -> None:
    totals: Mailbox[int] = Mailbox()
    totals.put(1)
    totals.put("one")  # type: ignore[arg-type]
    totals.put_nowait("one")  # type: ignore[arg-type]
    assert_type(totals.get(timeout=5), int)
    assert_type(totals.get_nowait(), int)
    assert_type(totals.qsize(), int)
    assert_type(totals.empty(), bool)
    strings: Mailbox[str] = totals  # type: ignore[assignment]
    strings.close()


def errors_have_one_base(closed: ActorClosed, died: ActorDied, remote: RemoteError) -> list[ActorError]:
    assert_type(remote.type_name, str)
    return [closed, died, remote]
