"""Actors with `async def` methods."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import signal

import pytest
from async_actors import (
    AsksLate,
    Beside,
    CleansUpBadly,
    Crowd,
    Disguised,
    Exclusive,
    Farewell,
    Flooder,
    Generating,
    Hooks,
    OfAnotherType,
    OnSignals,
    StartsAtGate,
    StartsSlowly,
    TellsItself,
    Unsendable,
    Waiter,
)
from programs import METHODS, run
from support import LIMIT, Recorder, eventually, reached, results, sleeps, unread
from test_actor import run_program

from pactor import Actor, ActorClosed, ActorDied, Restart, _coroutines, _wire, ask, tell
from pactor._channel import Channel

FOREVER = Restart(max_restarts=math.inf, backoff=0)


@pytest.fixture
def waiter(context):
    with Actor(Waiter(), context=context) as actor:
        yield actor


def test_coroutines_overlap(waiter, gate):
    """All 200 have begun, and none has ended, before the file is there that lets them."""
    asks = [ask(waiter.proxy.pass_by, gate, i) for i in range(200)]
    assert list(range(200)) == ask(waiter.proxy.all).result(LIMIT)
    assert not any(future.done() for future in asks)
    gate.touch()
    assert list(range(200)) == results(asks)


def test_messages_begin_in_their_order_plain_or_not(waiter, gate):
    asks = []
    for i in range(0, 100, 2):
        asks.append(ask(waiter.proxy.pass_by, gate, i))
        waiter.proxy.note(i + 1)
    assert list(range(100)) == ask(waiter.proxy.all).result(LIMIT)
    gate.touch()
    results(asks)


def test_a_plain_method_has_the_process_for_itself(context):
    """While it runs, no coroutine does."""
    with Actor(Exclusive(), context=context) as actor:
        asks = [ask(actor.proxy.come_and_go) for _ in range(20)]
        plain = [ask(actor.proxy.stay) for _ in range(20)]
        assert [True] * 20 == results(plain)
        actor.proxy.end()
        results(asks)


def test_a_flood_of_plain_messages_lets_coroutines_go_on(waiter):
    waiter.proxy.note_soon("soon")
    for i in range(200):
        waiter.proxy.note_slowly(i)
    assert ask(waiter.proxy.all).result(LIMIT).index("soon") < 100
    waiter.proxy.note_and_repeat(1_000_000_000)  # there is always a next one, until it closes
    assert list(range(10)) == results([ask(waiter.proxy.echo_soon, i) for i in range(10)])


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_run_at_once_than_are_allowed(context, concurrency, gate):
    with Actor(Crowd(), context=context, concurrency=concurrency) as actor:
        assert [concurrency] == sorted({*results([ask(actor.proxy.enter) for _ in range(30)])})[-1:]


def test_at_the_limit_the_mailbox_fills_up_and_empties_again(gate):
    """And what does not come through the mailbox is seen to: the owner's signals."""
    with Actor(Waiter(), concurrency=1, maxsize=3) as actor:
        asked = ask(actor.proxy.pass_by, gate, 1)
        for i in range(2, 5):  # they come before it has started, so it has received what it can't execute yet
            actor.proxy.note(i)
        reached(gate)
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(tell(actor.proxy.note, 5), 0.3))  # also when it looked for lost slots
        gate.touch()
        assert 1 == asked.result(LIMIT)
        assert [1, 2, 3, 4] == ask(actor.proxy.all).result(LIMIT)
        os.kill(actor.pid, signal.SIGTERM)
        assert actor.join(LIMIT)


@pytest.mark.parametrize(
    ("concurrency", "error", "text"),
    [(0, ValueError, "1 or more"), (-1, ValueError, "1 or more"), ("2", TypeError, "int"), (1.5, TypeError, "int")],
)
def test_a_limit_that_is_none_is_an_error_at_the_call(concurrency, error, text):
    with pytest.raises(error, match=text):
        Actor(Waiter(), concurrency=concurrency)


def test_a_limit_makes_methods_that_are_coroutines_in_disguise_run(context):
    with Actor(Disguised(), concurrency=5, context=context) as actor:
        assert "x" == ask(actor.proxy.echo, "x").result(LIMIT)


def test_what_a_coroutine_raises_is_raised_by_the_ask(waiter):
    with pytest.raises(KeyError, match="spam") as caught:
        ask(waiter.proxy.fail_soon, KeyError("spam")).result(LIMIT)
    assert "in fail_soon" in str(caught.value.__cause__)
    assert "_coroutines" not in str(caught.value.__cause__)
    with pytest.raises(concurrent.futures.CancelledError, match=r"cancel_itself\(\) was cancelled"):
        ask(waiter.proxy.cancel_itself).result(LIMIT)
    assert 1 == ask(waiter.proxy.echo, 1).result(LIMIT)


def test_what_cannot_be_sent_back_is_said(waiter):
    with pytest.raises(Exception, match=r"echo_soon\(\) returned .*which can't be sent"):
        ask(waiter.proxy.echo_soon, Unsendable()).result(LIMIT)
    with pytest.raises(Exception, match=r"many\(\) returned <async_generator"):
        ask(waiter.proxy.many, 3).result(LIMIT)


def test_all_that_can_be_awaited_is(waiter):
    assert "x" == ask(waiter.proxy.a_task, "x").result(LIMIT)
    assert "y" == ask(waiter.proxy.from_a_thread, "y").result(LIMIT)
    assert ask(waiter.proxy.in_a_thread).result(LIMIT)


def test_it_can_ask_itself_and_others(waiter, context):
    assert "from itself" == ask(waiter.proxy.ask_itself).result(LIMIT)
    with Actor(Waiter(), context=context) as other:
        asks = [ask(waiter.proxy.ask_other, other.proxy.echo_soon, i) for i in range(100)]
        assert list(range(100)) == results(asks)
        # And around: each awaits what the other one asks of it meanwhile.
        assert 5 == ask(waiter.proxy.ask_other, other.proxy.ask_other, waiter.proxy.echo_soon, 5).result(LIMIT)


def test_the_end_of_another_ends_what_awaits_it(waiter, context, gate):
    with Actor(Waiter(), context=context) as other:
        asked = ask(waiter.proxy.ask_other, other.proxy.pass_by, gate)
        eventually(lambda: ask(other.proxy.all).result(LIMIT))
        other.kill()
        with pytest.raises(ActorDied, match="SIGKILL"):
            asked.result(LIMIT)


def test_messages_to_itself_and_timers(waiter):
    waiter.proxy.enqueue_soon(100)
    eventually(lambda: len(ask(waiter.proxy.all).result(LIMIT)) == 101)
    waiter.proxy.enqueue_later_soon("later")
    eventually(lambda: ask(waiter.proxy.all).result(LIMIT)[-1] == "later")


def test_hooks_and_watchers_may_be_coroutines(context, tmp_path):
    log = tmp_path / "log"
    with Actor(Recorder(), context=context) as watched, Actor(Hooks(log, watched.proxy), context=context) as actor:
        assert ["start"] == ask(actor.proxy.notes).result(LIMIT)
        watched.close()
        eventually(lambda: ask(actor.proxy.notes).result(LIMIT) == ["start", "ActorClosed"])
    assert "background stop" == log.read_text()


def test_what_is_left_to_run_beside_is_cancelled_at_the_end(context, tmp_path):
    with Actor(Beside(tmp_path / "log"), context=context) as actor:
        ask(actor.proxy.begin).result(LIMIT)
    assert "cancelled" == (tmp_path / "log").read_text()


def test_what_comes_while_a_coroutine_blocks_is_executed_then(waiter, context, gate):
    """It was received by the wait, so the mailbox has nothing more to tell."""
    with Actor(Recorder(), context=context) as other:
        blocking = ask(waiter.proxy.block_on, other.proxy.wait_for, gate)
        reached(gate)
        asked = ask(waiter.proxy.echo, "x")
        eventually(lambda: not unread(waiter._way.file))
        gate.touch()
        blocking.result(LIMIT)
        assert "x" == asked.result(LIMIT)


def test_at_the_limit_it_goes_on_receiving(context):
    """What it awaits may have to tell it something before."""
    with Actor(Waiter(), context=context, concurrency=1) as actor, Actor(Flooder(), context=context) as other:
        assert 1000 == ask(actor.proxy.ask_other, other.proxy.flood, actor.proxy, 1000).result(LIMIT)
        assert 1000 == len(ask(actor.proxy.all).result(LIMIT))


@pytest.mark.parametrize("misuse", ["cancel_all", "stop_loop"])
def test_a_method_that_ends_all_tasks_or_the_loop_ends_not_the_actor(waiter, misuse):
    getattr(waiter.proxy, misuse)()
    assert "x" == ask(waiter.proxy.echo_soon, "x").result(LIMIT)


# The end


def test_close_waits_for_what_runs_and_refuses_what_comes(context, gate):
    with Actor(Waiter(), context=context) as actor:
        asks = [ask(actor.proxy.pass_by, gate, i) for i in range(20)]
        proxy = actor.proxy
        actor.close()
        with pytest.raises(ActorClosed):
            ask(proxy.echo)
        assert not actor.join(timeout=0.05)
        gate.touch()
        assert list(range(20)) == results(asks)
        assert actor.join(LIMIT)
        assert 0 == actor.exitcode


def test_while_it_closes_asks_of_others_end_at_once(context, gate):
    """Or what it waits for could wait for it."""
    with Actor(Waiter(), context=context) as other, Actor(Waiter(), context=context) as actor:
        running = ask(actor.proxy.pass_by, gate)
        ask(actor.proxy.all).result(LIMIT)
        actor.close()
        with pytest.raises(ActorClosed):
            ask(other.proxy.ask_other, actor.proxy.echo).result(LIMIT)
        with pytest.raises(ActorClosed):
            ask(other.proxy.ask_other, actor.proxy.echo).result(LIMIT)
        assert not running.done()
        gate.touch()
        running.result(LIMIT)


@pytest.mark.parametrize("method", METHODS)
def test_what_others_tell_it_while_it_closes_is_counted_as_not_executed(method, tmp_path):
    result = run_program(
        tmp_path,
        """
        from async_actors import Waiter
        if __name__ == "__main__":
            gate = sys.argv[0] + ".gate"
            with Actor(Recorder(), context=context) as other, Actor(Waiter(), context=context) as actor:
                running = ask(actor.proxy.pass_by, gate)
                reached(gate)
                actor.close()
                for _ in range(3):
                    other.proxy.tell(actor.proxy, "late")
                ask(other.proxy.echo).result(LIMIT)
                open(gate, "w").close()
                running.result(LIMIT)
        """,
        method,
    )
    assert 0 == result.returncode
    assert "messages that it did not execute: 3 (3 x note())" in result.stderr


@pytest.mark.parametrize("policy", ["resume", FOREVER], ids=["resume", "restart"])
def test_sigterm_cancels_what_runs(context, tmp_path, policy):
    with Actor(Waiter(), context=context, on_failure=policy) as actor:
        asks = [ask(actor.proxy.note_at_end, tmp_path / "log") for _ in range(3)]
        ask(actor.proxy.all).result(LIMIT)
        os.kill(actor.pid, signal.SIGTERM)
        assert actor.join(LIMIT)
        for future in asks:
            with pytest.raises(ActorClosed, match="SIGTERM"):
                future.result(LIMIT)
    assert "ended ended ended " == (tmp_path / "log").read_text()


def test_what_can_not_be_cancelled_keeps_nobody_for_ever(monkeypatch):
    monkeypatch.setattr(_coroutines, "_CANCELLED", 0.1)
    with Actor(Waiter(), context=multiprocessing.get_context("fork")) as actor:
        actor.proxy.refuse_to_end()
        ask(actor.proxy.all).result(LIMIT)
        os.kill(actor.pid, signal.SIGTERM)
        assert actor.join(LIMIT)


def test_an_exception_of_one_ends_all_where_failures_stop(context, gate):
    with Actor(Waiter(), context=context, on_failure="stop") as actor:
        asks = [ask(actor.proxy.pass_by, gate, i) for i in range(5)]
        actor.proxy.fail_soon(KeyError("spam"))
        for future in asks:
            with pytest.raises(ActorDied, match=r"fail_soon\(\) raised KeyError: 'spam'"):
                future.result(LIMIT)


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_of_one_that_was_told_is_logged(method, tmp_path):
    result = run_program(
        tmp_path,
        """
        from async_actors import Waiter
        if __name__ == "__main__":
            with Actor(Waiter(), context=context) as actor:
                actor.proxy.fail_soon(KeyError("spam"))
                actor.proxy.cancel_itself()
                print(ask(actor.proxy.echo_soon, "goes on").result(LIMIT))
        """,
        method,
    )
    assert "goes on\n" == result.stdout
    assert "fail_soon() raised; it goes on with the next message" in result.stderr
    assert "cancel_itself() raised; it goes on with the next message" in result.stderr
    assert 2 == result.stderr.count("Traceback")
    assert "_coroutines" not in result.stderr


def test_sys_exit_in_a_coroutine_ends_it(context, gate):
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        other = ask(actor.proxy.pass_by, gate)
        with pytest.raises(ActorDied, match=r"ended itself: fail_soon\(\) raised SystemExit: 3"):
            ask(actor.proxy.fail_soon, SystemExit(3)).result(LIMIT)
        with pytest.raises(ActorDied, match="ended itself"):
            other.result(LIMIT)
        actor.join(LIMIT)
        assert 3 == actor.exitcode


def test_sys_exit_beside_the_messages_ends_it_too(context):
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        with pytest.raises(ActorDied, match="ended itself: a task of its event loop raised SystemExit: 3"):
            ask(actor.proxy.exit_beside).result(LIMIT)
        actor.join(LIMIT)
        assert 3 == actor.exitcode


@pytest.mark.parametrize("policy", ["resume", FOREVER], ids=["resume", "restart"])
def test_sigterm_ends_a_start_that_takes_its_time(context, tmp_path, policy):
    with Actor(StartsSlowly(tmp_path / "path"), context=context, on_failure=policy) as actor:
        asked = ask(actor.proxy.echo, 1)
        eventually(lambda: (tmp_path / "path").exists())
        os.kill(actor.pid, signal.SIGTERM)
        with pytest.raises(ActorClosed, match="SIGTERM"):
            asked.result(LIMIT)
        assert actor.join(LIMIT)


@pytest.mark.parametrize("maxsize", [0, 10])
def test_what_comes_while_it_starts_is_executed_then(context, gate, maxsize):
    with Actor(StartsAtGate(gate), context=context, maxsize=maxsize) as actor:
        reached(gate)
        asks = []
        for i in range(3):
            asks.append(ask(actor.proxy.echo, i))
            eventually(lambda: maxsize or not unread(actor._way.file))
        gate.touch()
        assert [0, 1, 2] == results(asks)


def test_a_child_that_returns_late_has_nothing_executed_twice(context, gate, tmp_path):
    """The inbox, which both have in memory, is the parent's."""
    log = tmp_path / "log"
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        actor.proxy.fork_late(gate)
        actor.proxy.write(log, "1")
        actor.proxy.write(log, "2")
        actor.proxy.open_and_die(gate)
        actor.proxy.write(log, "3")
        assert "x" == ask(actor.proxy.echo, "x").result(LIMIT)
    assert "123" == log.read_text()


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_what_has_begun_when_it_dies_ends_with_actor_died(context, gate, how):
    with Actor(Waiter(), context=context) as actor:
        asks = [ask(actor.proxy.pass_by, gate, i) for i in range(10)]
        if how == "kill":
            ask(actor.proxy.all).result(LIMIT)
            actor.kill()
        else:
            actor.proxy.exit(1)
        for future in asks:
            with pytest.raises(ActorDied):
                future.result(LIMIT)


@pytest.mark.parametrize("fail", ["kill", "raise"])
def test_a_restart_answers_what_had_begun_and_executes_what_had_not(context, gate, fail):
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        asks = [ask(actor.proxy.pass_by, gate, i) for i in range(50)]
        ask(actor.proxy.all).result(LIMIT)
        if fail == "kill":
            actor.proxy.kill()
        else:
            actor.proxy.fail(ValueError("spam"))
        waiting = ask(actor.proxy.echo_soon, "x")
        for future in asks:
            with pytest.raises(ActorDied, match="it is restarted, without this message"):
                future.result(LIMIT)
        assert "x" == waiting.result(LIMIT)
        eventually(lambda: 0 == os.path.getsize(f"{actor._mailbox.directory}/unanswered"))


def test_a_restart_with_many_answers_each_ask_once(context):
    """Killed again and again while coroutines come and go: every ask ends, and no reply is another's."""
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        pid = 0
        for _ in range(5):
            asks = [ask(actor.proxy.echo_soon, i) for i in range(200)]
            pid = eventually(lambda pid=pid: actor.pid != pid and actor.pid)  # the one before may just be buried
            os.kill(pid, signal.SIGKILL)
            for i, future in enumerate(asks):
                with contextlib.suppress(ActorDied):
                    assert i == future.result(LIMIT)
        assert "x" == ask(actor.proxy.echo_soon, "x").result(LIMIT)


def test_killed_while_it_closes_it_ends(context, gate):
    with Actor(Waiter()) as other, Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        asked = ask(actor.proxy.pass_by, gate)
        reached(gate)
        pid = actor.pid
        actor.close()
        with pytest.raises(ActorClosed):  # at once: it has read that it is to end
            ask(other.proxy.ask_other, actor.proxy.echo).result(LIMIT)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((ActorDied, ActorClosed)):
            asked.result(LIMIT)
        assert actor.join(LIMIT)


def test_a_child_that_a_coroutine_forks_runs_no_messages(context):
    with Actor(Waiter(), context=context) as actor:
        assert 0 == ask(actor.proxy.fork).result(LIMIT)
        assert 1 == ask(actor.proxy.echo_soon, 1).result(LIMIT)


def test_a_loop_that_blocks_in_a_circle_is_told_so(context):
    with Actor(Waiter(), context=context) as actor:
        with pytest.raises(Exception, match="wait for each other"):
            ask(actor.proxy.hang_by_asking, actor.proxy).result(LIMIT)


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_ends_it_in_silence(method, tmp_path):
    result = run_program(
        tmp_path,
        """
        from async_actors import Waiter
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log = sys.argv[0] + ".log"
            with Actor(Waiter(), context=context) as actor:
                actor.proxy.note_at_end(log)
                os.kill(ask(actor.proxy.pid).result(LIMIT), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
        """,
        method,
    )
    assert "ended " == (tmp_path / "program.py.log").read_text()
    assert 1 == result.stderr.count("Traceback"), result.stderr
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("is_idle", [True, False])
@pytest.mark.parametrize("do", ["resolve", "call_later"])
def test_a_signal_handler_that_its_event_loop_does_not_know_wakes_it(context, do, is_idle):
    with Actor(OnSignals(), context=context) as actor:
        assert ask(actor.proxy.is_idle).result(LIMIT)  # how long it takes to start is no part of this
        future = ask(getattr(actor.proxy, do), "value")
        if is_idle:
            assert ask(actor.proxy.is_idle).result(LIMIT)
            eventually(lambda: sleeps(actor.pid))
            os.kill(actor.pid, signal.SIGUSR1)
        else:
            actor.proxy.hit_before_it_sleeps()
        assert "value" == future.result(LIMIT / 10)


def test_what_comes_while_such_a_handler_waits_is_executed_behind_it(context, gate):
    with Actor(Recorder(), context=context) as other, Actor(OnSignals(), context=context) as actor:
        ask(actor.proxy.wait, other.proxy, gate).result(LIMIT)
        eventually(lambda: sleeps(actor.pid))
        os.kill(actor.pid, signal.SIGUSR1)
        reached(gate)
        future = ask(actor.proxy.is_idle)
        eventually(lambda: not unread(actor._way.file))
        gate.touch()
        assert future.result(LIMIT / 10)


def test_many_signals_that_come_to_a_busy_method_are_no_news(context, capfd):
    """Each of them fills the way by which an event loop hears of them."""
    with Actor(OnSignals(), context=context) as actor:
        ask(actor.proxy.handle_many).result(LIMIT)
    assert "" == capfd.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_only_what_the_class_needs_is_imported(method, tmp_path):
    (tmp_path / "program.py").write_text(IMPORTS)
    asyncio, inspect = run("program.py", method, tmp_path).splitlines()
    assert "False True" == asyncio
    assert ("True True" if method == "fork" else "False True") == inspect


IMPORTS = """
import sys
from pactor import Actor, ask

class Plain:
    def has(self, module):
        return module in sys.modules

    def enqueues(self):
        self.enqueue(self.has, "inspect")

class Async(Plain):
    async def wait(self):
        pass

if __name__ == "__main__":
    with Actor(Plain()) as plain, Actor(Async()) as coroutines:
        print(*[ask(actor.proxy.has, "asyncio").result(timeout=60) for actor in (plain, coroutines)])
        before = ask(plain.proxy.has, "inspect").result(timeout=60)
        ask(plain.proxy.enqueues).result(timeout=60)
        print(before, ask(plain.proxy.has, "inspect").result(timeout=60))
"""


def test_an_owner_in_an_event_loop_makes_and_asks_them(context):
    async def main():
        with Actor(Waiter(), context=context) as actor:
            return await asyncio.gather(*[ask(actor.proxy.echo_soon, i) for i in range(50)])

    assert list(range(50)) == asyncio.run(main())


@pytest.mark.parametrize("policy", ["resume", FOREVER], ids=["resume", "restart"])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("how", ["raise", "exit", "stop"])
def test_however_its_coroutines_clean_up_it_ends_at_once_as_it_was_told(monkeypatch, how, beside, policy):
    monkeypatch.setattr(_coroutines, "_CANCELLED", 2 * LIMIT)
    with Actor(CleansUpBadly(), context=multiprocessing.get_context("fork"), on_failure=policy) as actor:
        (actor.proxy.clean_up_beside if beside else actor.proxy.clean_up)(how)
        asked = ask(actor.proxy.clean_up, how)
        eventually(lambda: [how, how] == ask(actor.proxy.all).result(LIMIT))
        os.kill(actor.pid, signal.SIGTERM)
        try:
            with pytest.raises(ActorClosed, match="SIGTERM"):
                asked.result(LIMIT)
            assert actor.join(LIMIT)
        finally:
            actor.kill()


@pytest.mark.parametrize("maxsize", [0, 10])
@pytest.mark.parametrize("how", ["tell_itself", "tell_itself_in_a_thread"])
def test_a_coroutine_may_tell_its_own_actor_more_than_there_is_room_for(context, maxsize, how):
    with Actor(TellsItself(), context=context, concurrency=1, maxsize=maxsize) as actor:
        ask(getattr(actor.proxy, how), 4000).result(LIMIT)
        assert 4000 == ask(actor.proxy.count).result(LIMIT)


@pytest.mark.parametrize("what", ["ask", "flood"])
def test_while_its_on_stop_waits_it_keeps_nobody_waiting(context, gate, what):
    with Actor(AsksLate(), context=context) as other, Actor(Farewell(other.proxy, gate), context=context) as actor:
        told = ask(getattr(other.proxy, what), actor.proxy, gate)
        reached(gate)
        actor.close()
        eventually(lambda: os.path.exists(f"{gate}.stopping"))
        gate.touch()
        assert "ActorClosed" == told.result(LIMIT)
        assert actor.join(LIMIT)


def test_whoever_floods_it_while_its_on_stop_waits_waits_at_last(monkeypatch, gate):
    monkeypatch.setattr(_coroutines, "_READ_AHEAD", 1000)
    fork = multiprocessing.get_context("fork")
    with Actor(AsksLate(), context=fork) as other, Actor(Farewell(other.proxy, gate), context=fork) as actor:
        other.proxy.wait_for(gate)
        reached(gate)
        actor.close()
        eventually(lambda: os.path.exists(f"{gate}.stopping"))
        way = Channel(actor._mailbox.directory, "flooded")
        frame = _wire.frame(_wire.ITEM, b"", bytes(4000))
        eventually(lambda: not way.try_send(frame))
        gate.touch()
        assert actor.join(LIMIT)


def test_a_generator_that_nobody_asked_for_is_no_coroutine(context):
    with Actor(Generating(), context=context, concurrency=5, on_failure="stop") as actor:
        actor.proxy.generate()
        assert "goes on" == ask(actor.proxy.echo, "goes on").result(LIMIT)


def test_an_actor_that_tells_itself_much_goes_on_meanwhile(context):
    with Actor(TellsItself(), context=context) as actor:
        assert 10_000 < ask(actor.proxy.tell_itself, 20_000).result(LIMIT)
        assert 20_000 == ask(actor.proxy.count).result(LIMIT)


def test_coroutines_of_another_type_run_also_where_nobody_asks(context):
    with Actor(OfAnotherType(), context=context, concurrency=5) as actor:
        actor.proxy.note_soon(1)
        ask(actor.proxy.note_soon, 2).result(LIMIT)
        assert [1, 2] == ask(actor.proxy.all).result(LIMIT)


def test_what_it_tells_itself_comes_in_order_also_where_there_is_no_room(context):
    """The small ones would find room where a large one does not."""
    with Actor(TellsItself(), context=context) as actor:
        ask(actor.proxy.tell_itself_at_once, 60).result(LIMIT)
        assert [*range(120)] == [number for number, _ in ask(actor.proxy.all).result(LIMIT)]
