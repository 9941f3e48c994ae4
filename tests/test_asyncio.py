"""Asks that are awaited, and sends from event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types

import pytest
from ask_actors import Fails, hit_where_it_loads
from async_actors import LeavesUnsent, LeavesUnsentInAThread, ask_elsewhere
from support import LIMIT, Recorder, eventually, reached
from test_actor import run_program

from pactor import Actor, ActorClosed, ActorDied, Mailbox, _waiting, ask, tell

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with Python 3.11")


@pytest.fixture
def recorder(context):
    with Actor(Recorder(), context=context) as actor:
        yield actor


@pytest.fixture
def small(gate):
    """An actor with room for one message, that waits for the gate."""
    with Actor(Recorder(), maxsize=1) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        yield actor
        open(gate, "w").close()


def open_gate(gate):
    open(gate, "w").close()


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


# Awaiting


def test_a_reply_is_awaited(recorder):
    async def main():
        assert await ask(recorder.proxy.echo, "x") == "x"
        assert await asyncio.gather(*(ask_and_wait(recorder, i) for i in range(200))) == list(range(200))

    asyncio.run(main())


async def ask_and_wait(actor, value):
    return await ask(actor.proxy.echo, value)


def test_a_reply_that_was_read_when_an_exception_came_is_awaited(recorder, gate):
    async def main():
        waits = asyncio.create_task(ask_and_wait_for(recorder, gate))
        await until(lambda: os.path.exists(f"{gate}.reached"))
        assert "hit" == hit_where_it_loads(fails.proxy, lambda: open_gate(gate))
        assert await asyncio.wait_for(waits, LIMIT / 10) is None

    with Actor(Fails()) as fails:
        asyncio.run(main())


async def ask_and_wait_for(actor, gate):
    return await ask(actor.proxy.wait_for, gate)


def test_gather_takes_the_futures_themselves(recorder):
    async def main():
        return await asyncio.gather(*[ask(recorder.proxy.echo, i) for i in range(50)])

    assert asyncio.run(main()) == list(range(50))


def test_what_the_method_raises_is_raised_with_the_remote_traceback(recorder):
    async def main():
        with pytest.raises(KeyError, match="spam") as caught:
            await ask(recorder.proxy.fail, KeyError("spam"))
        assert "in fail" in str(caught.value.__cause__)

    asyncio.run(main())


def test_the_loop_goes_on_while_the_actor_is_busy(recorder, gate):
    """Who opens the gate is the loop itself."""

    async def main():
        threads = threading.active_count()
        asked = asyncio.ensure_future(ask_method(recorder.proxy.wait_for, gate))
        await until(lambda: os.path.exists(f"{gate}.reached"))
        assert threading.active_count() == threads
        assert not asked.done()
        open_gate(gate)
        assert await asked is None
        assert threading.active_count() == threads

    asyncio.run(main())


async def ask_method(method, *args):
    return await ask(method, *args)


@pytest.mark.parametrize("how", ["wait_for", "timeout"])
def test_a_timeout_gives_up_and_the_actor_goes_on(recorder, gate, how):
    if how == "timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout came with Python 3.11")

    async def main():
        future = ask(recorder.proxy.wait_for, gate)
        with pytest.raises(asyncio.TimeoutError):
            if how == "wait_for":
                await asyncio.wait_for(future, 0.05)
            else:
                async with asyncio.timeout(0.05):
                    await future
        assert future.cancelled()
        open_gate(gate)
        assert await ask(recorder.proxy.echo, 1) == 1

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_ask_and_leaves_nothing(recorder, gate):
    async def main():
        ask(recorder.proxy.wait_for, gate).cancel()
        asks = [ask(recorder.proxy.echo, i) for i in range(500)]
        tasks = [asyncio.ensure_future(wait(a)) for a in asks]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0)
        open_gate(gate)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in done[::2])
        assert done[1::2] == list(range(1, 500, 2))
        assert all(a.cancelled() for a in asks[::2])
        assert not asks[0]._replies._pending

    asyncio.run(main())


async def wait(future):
    return await future


@needs_groups
def test_in_a_group_a_failed_ask_cancels_the_others(recorder, gate):
    async def main():
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            async with asyncio.TaskGroup() as group:
                group.create_task(wait(ask(recorder.proxy.fail, ValueError("spam"))))
                waiting = ask(recorder.proxy.wait_for, gate)
                group.create_task(wait(waiting))
        assert [str(error) for error in caught.value.exceptions] == ["spam"]
        assert waiting.cancelled()
        open_gate(gate)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_end_of_the_actor_ends_the_await(context, end, gate):
    async def main():
        with Actor(Recorder(), context=context) as actor:
            asks = [asyncio.ensure_future(wait(ask(actor.proxy.wait_for, gate))) for _ in range(3)]
            await until(lambda: os.path.exists(f"{gate}.reached"))
            if end == "kill":
                actor.kill()
                found = await asyncio.gather(*asks, return_exceptions=True)
                assert [type(error) for error in found] == [ActorDied] * 3
            else:
                actor.close()
                with pytest.raises(ActorClosed):
                    await ask(actor.proxy.echo)
                open_gate(gate)
                assert await asyncio.gather(*asks) == [None] * 3

    asyncio.run(main())


def test_a_future_can_be_awaited_more_than_once_and_late(recorder):
    async def main():
        future = ask(recorder.proxy.echo, 1)
        assert await asyncio.gather(wait(future), wait(future)) == [1, 1]
        assert await future == 1
        future = ask(recorder.proxy.echo, 2)
        assert future.result(timeout=LIMIT) == 2
        assert await future == 2
        future = ask(recorder.proxy.echo, 3)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


def test_many_loops_in_as_many_threads(recorder):
    async def main(first):
        return await asyncio.gather(*(ask_and_wait(recorder, first + i) for i in range(300)))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        starts = [1000 * i for i in range(6)]
        found = list(pool.map(lambda start: asyncio.run(main(start)), starts))
    assert found == [[start + i for i in range(300)] for start in starts]


def test_beside_threads_that_wait_for_results(recorder):
    """Whoever reads the replies: each gets its own."""
    stop = threading.Event()

    def ask_on():
        count = 0
        while not stop.is_set():
            assert ask(recorder.proxy.echo, count).result(timeout=LIMIT) == count
            count += 1
        return count

    async def main():
        for _ in range(20):
            assert await asyncio.gather(*(ask_and_wait(recorder, i) for i in range(50))) == list(range(50))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask_on) for _ in range(2)]
        try:
            asyncio.run(main())
        finally:
            stop.set()
        assert all(future.result(timeout=LIMIT) > 0 for future in asking)


def test_a_future_is_awaited_in_another_thread_than_it_was_asked_in(recorder):
    future = ask(recorder.proxy.echo, "x")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, wait(future)).result(timeout=LIMIT) == "x"


def test_one_loop_after_the_other(recorder):
    for i in range(20):
        assert asyncio.run(ask_and_wait(recorder, i)) == i


def test_what_threads_do_with_futures_works_in_a_loop(recorder):
    async def main():
        assert await asyncio.wrap_future(ask(recorder.proxy.echo, 1)) == 1
        assert await asyncio.to_thread(ask(recorder.proxy.echo, 2).result, LIMIT) == 2

    asyncio.run(main())
    eventually(lambda: threading.active_count() == 1)


def test_a_signal_handler_may_receive_what_is_awaited(recorder, context, on_alarm):
    """The loop sleeps meanwhile, and has to be woken."""

    async def main():
        loop = asyncio.get_running_loop()
        latest = loop.time() + LIMIT / 10
        loop.call_at(latest, lambda: None)  # wakes it at last
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert await ask(recorder.proxy.sleep, 0.1) == 0.1
        assert loop.time() < latest

    with Actor(Recorder(), context=context) as other:
        for actor in recorder, other:
            ask(actor.proxy.echo).result(LIMIT)  # it has started
        on_alarm(lambda *_: ask(other.proxy.sleep, 0.3).result(LIMIT))
        asyncio.run(main())


def test_large_replies_are_awaited(recorder):
    async def main():
        assert await ask(recorder.proxy.echo, bytes(10**6)) == bytes(10**6)

    asyncio.run(main())


def test_outside_of_asyncio_the_error_says_what_to_do():
    with Actor(Recorder()) as actor:
        with pytest.raises(RuntimeError, match="result"):
            wait(ask(actor.proxy.echo)).send(None)
        assert wait_done(actor) == 1  # nothing to wait for: whose loop it is does not matter


def wait_done(actor):
    future = ask(actor.proxy.echo, 1)
    future.result(timeout=LIMIT)
    try:
        wait(future).send(None)
    except StopIteration as end:
        return end.value


@pytest.fixture(scope="session")
def uvloop():
    """uvloop, with the descriptors that it keeps once there was a loop."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.new_event_loop().close()
    return uvloop


def test_with_uvloop(uvloop, recorder):
    async def main():
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        for i in range(100):
            await tell(recorder.proxy.note, i)
        assert await ask(recorder.proxy.all) == list(range(100))
        assert await asyncio.gather(*(ask_and_wait(recorder, i) for i in range(200))) == list(range(200))

    with contextlib.closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(main())


def test_a_process_that_was_forked_awaits_its_own_replies(start, recorder):
    with contextlib.closing(Mailbox()) as found:
        asyncio.run(ask_and_wait(recorder, 0))  # so that there is something to inherit
        process = start(ask_elsewhere, recorder.proxy, found)
        assert found.get(timeout=LIMIT) == list(range(50))
        process.join(LIMIT)  # killed, it would leave its mailbox
        assert asyncio.run(ask_and_wait(recorder, 1)) == 1


def test_an_await_is_no_reason_to_keep_the_loop(recorder):
    """Neither a closed loop nor its tasks are kept by what was awaited in them."""
    import gc
    import weakref

    async def main():
        await ask(recorder.proxy.echo)
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None


# Telling


def test_tell_is_a_message(recorder):
    async def main():
        for i in range(1000):
            assert await tell(recorder.proxy.note, i) is None
        assert await ask(recorder.proxy.all) == list(range(1000))

    asyncio.run(main())


def test_tell_waits_for_room_and_keeps_the_order(small, gate):
    async def main():
        telling = [asyncio.ensure_future(tell(small.proxy.note, i)) for i in range(100)]
        await until(lambda: telling[0].done())
        asked = ask(small.proxy.all)
        await asyncio.sleep(0)
        assert not any(task.done() for task in telling[1:])
        open_gate(gate)
        await asyncio.gather(*telling)
        assert await asked == list(range(100))

    asyncio.run(main())


def test_in_a_mailbox_without_maxsize_tell_waits_for_the_system(recorder, gate):
    async def main():
        await tell(recorder.proxy.wait_for, gate)
        telling = [asyncio.ensure_future(tell(recorder.proxy.note, i, bytes(2000))) for i in range(500)]
        await until(lambda: os.path.exists(f"{gate}.reached"))
        assert not telling[-1].done()
        open_gate(gate)
        await asyncio.gather(*telling)
        assert [i for i, _ in await ask(recorder.proxy.all)] == list(range(500))

    asyncio.run(main())


def test_a_tell_that_is_cancelled_while_it_waits_sends_nothing(small, gate):
    async def main():
        telling = [asyncio.ensure_future(tell(small.proxy.note, i)) for i in range(10)]
        await until(lambda: telling[0].done())
        telling[4].cancel()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(tell(small.proxy.note, "late"), 0.01)
        open_gate(gate)
        await asyncio.gather(*telling, return_exceptions=True)
        assert await ask(small.proxy.all) == [0, 1, 2, 3, 5, 6, 7, 8, 9]

    asyncio.run(main())


def test_a_large_tell_that_is_cancelled_leaves_nothing(small, gate):
    async def main():
        await tell(small.proxy.note, 0)
        telling = [asyncio.ensure_future(tell(small.proxy.note, bytes(100_000))) for _ in range(3)]
        await asyncio.sleep(0)
        for task in telling:
            task.cancel()
        open_gate(gate)
        assert await ask(small.proxy.all) == [0]
        directory = small._mailbox.directory
        await until(lambda: not [name for name in os.listdir(directory) if name[0].isdigit()])

    asyncio.run(main())


def test_a_plain_message_without_room_warns_that_the_loop_stands_still(small, gate):
    async def main():
        await tell(small.proxy.note, 0)
        waiting = asyncio.ensure_future(tell(small.proxy.note, 1))
        await asyncio.sleep(0)
        threading.Timer(0.05, open_gate, [gate]).start()
        with pytest.warns(RuntimeWarning, match=r"await tell\(") as caught:
            small.proxy.note(2)
        assert caught[0].filename == __file__
        await waiting
        assert await ask(small.proxy.all) == [0, 1, 2]

    asyncio.run(main())
    eventually(lambda: threading.active_count() == 1)


def test_an_ask_without_room_is_sent_by_the_loop(small, gate):
    async def main():
        asks = [ask(small.proxy.echo, i) for i in range(20)]
        open_gate(gate)
        assert await asyncio.gather(*asks) == list(range(20))

    asyncio.run(main())


def test_an_ask_that_is_cancelled_before_it_was_sent_is_not(small, gate):
    async def main():
        ask(small.proxy.note, 0)
        asks = [ask(small.proxy.note, i) for i in range(1, 6)]
        asks[2].cancel()
        open_gate(gate)
        await asyncio.gather(*asks[:2], *asks[3:])
        assert await ask(small.proxy.all) == [0, 1, 2, 4, 5]

    asyncio.run(main())


def test_what_a_loop_left_unsent_is_sent_by_who_waits_for_it(small, gate):
    async def main():
        return [ask(small.proxy.echo, i) for i in range(5)]

    asks = asyncio.run(main())
    threading.Timer(0.05, open_gate, [gate]).start()
    assert [future.result(timeout=LIMIT) for future in asks] == list(range(5))
    eventually(lambda: threading.active_count() == 1)


def test_what_a_loop_left_unsent_is_sent_by_the_loop_that_awaits_it(small, gate):
    async def main():
        return [ask(small.proxy.echo, i) for i in range(5)]

    async def gather(futures):
        return await asyncio.gather(*futures)

    asks = asyncio.run(main())
    open_gate(gate)
    assert asyncio.run(wait(asks[4])) == 4
    assert asyncio.run(gather(asks)) == list(range(5))


def test_what_a_loop_left_unsent_comes_before_what_its_thread_sends_next(small, gate):
    async def main():
        return [ask(small.proxy.note, i) for i in range(5)]

    async def tell_more():
        telling = asyncio.ensure_future(tell(small.proxy.note, 5))
        await asyncio.sleep(0)
        open_gate(gate)
        await telling
        return await ask(small.proxy.all)

    left = asyncio.run(main())
    assert asyncio.run(tell_more()) == list(range(6))
    assert [future.result(timeout=LIMIT) for future in left] == [None] * 5


def wait_for_result(future):
    return [threading.Thread(target=future.result)]


def wait_with_others(future):
    return [threading.Thread(target=concurrent.futures.wait, args=([future],))]


def wait_in_another_loop(future):
    return [threading.Thread(target=lambda: asyncio.run(wait(future)))]


def have_a_callback_called(future):
    future.add_done_callback(lambda future: None)
    return []


@pytest.mark.parametrize(
    "begin", [wait_for_result, wait_with_others, wait_in_another_loop, have_a_callback_called], ids=lambda f: f.__name__
)
def test_what_a_loop_leaves_unsent_is_sent_by_who_began_to_wait_for_it_before(small, gate, begin):
    done = threading.Event()

    async def main():
        await tell(small.proxy.note, 0)
        future = ask(small.proxy.echo, "spam")
        future._when_done(lambda _: done.set())
        threads = begin(future)
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.05)  # for as long as it likes: it leaves the loop what the loop may still send
        return threads

    threads = asyncio.run(main())
    open_gate(gate)
    assert done.wait(LIMIT)
    for thread in threads:
        thread.join(LIMIT)
    eventually(lambda: threading.active_count() == 1)


@pytest.mark.parametrize("cls", [LeavesUnsent, LeavesUnsentInAThread])
def test_a_future_that_a_method_s_own_loop_left_unsent_is_sent(small, gate, cls):
    """Also where the loop was a thread's, of an actor with coroutines."""
    with Actor(cls(small.proxy), context=multiprocessing.get_context("fork")) as actor:
        small.proxy.note(0)
        future = ask(actor.proxy.ask_in_a_loop, "spam")
        ask(actor.proxy.echo).result(LIMIT)
        open_gate(gate)
        assert "spam" == future.result(LIMIT)


@pytest.mark.parametrize("runs", [False, True], ids=["the loop has ended", "the loop runs"])
def test_no_thread_is_busy_with_an_ask_that_was_cancelled_before_it_was_sent(small, gate, runs):
    async def main():
        await tell(small.proxy.note, 0)
        future = ask(small.proxy.echo)
        future.add_done_callback(lambda _: None)
        if runs:
            future.cancel()
            await until(lambda: threading.active_count() == 1)
        return future

    asyncio.run(main()).cancel()
    eventually(lambda: threading.active_count() == 1)


def test_what_a_stopped_loop_left_unsent_comes_before_what_the_next_one_sends(small, gate):
    async def leave():
        await tell(small.proxy.note, 0)
        return ask(small.proxy.note, 1)

    async def go_on():
        open_gate(gate)
        await tell(small.proxy.note, 2)

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    with contextlib.closing(first), contextlib.closing(second):
        left = first.run_until_complete(leave())
        second.run_until_complete(go_on())
        left.result(LIMIT)
        assert [0, 1, 2] == ask(small.proxy.all).result(LIMIT)


def test_what_two_loops_left_unsent_after_each_other_is_sent_for_its_callback(small, gate):
    done = threading.Event()

    async def leave():
        await tell(small.proxy.note, 0)
        future = ask(small.proxy.echo, "spam")
        future.add_done_callback(lambda _: done.set())

    async def adopt():
        ask(small.proxy.echo)

    asyncio.run(leave())
    asyncio.run(adopt())
    open_gate(gate)
    assert done.wait(LIMIT)
    eventually(lambda: threading.active_count() == 1)


def test_a_tell_that_a_closed_loop_left_is_sent_once(small, gate):
    loop = asyncio.new_event_loop()

    async def main():
        await tell(small.proxy.note, 0)
        task = asyncio.ensure_future(tell(small.proxy.note, 1))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(main())
    task._log_destroy_pending = False
    loop.close()
    open_gate(gate)
    small.proxy.note(2)
    assert ask(small.proxy.all).result(timeout=LIMIT) == [0, 1, 2]


@pytest.mark.parametrize("debug", [False, True])
def test_a_thread_that_waits_leaves_the_messages_of_a_running_loop_alone(small, gate, debug):
    async def main():
        await tell(small.proxy.note, 0)
        telling = asyncio.ensure_future(tell(small.proxy.note, 1))
        await asyncio.sleep(0)
        asked = asyncio.ensure_future(asyncio.to_thread(lambda: ask(small.proxy.echo, "x").result(timeout=LIMIT)))
        await asyncio.sleep(0.02)
        open_gate(gate)
        await telling
        assert await asked == "x"
        assert await ask(small.proxy.all) == [0, 1]

    asyncio.run(main(), debug=debug)


def test_a_timeout_does_not_wait_for_messages_that_are_not_sent_yet(small, recorder, gate):
    async def main():
        asks = [ask(small.proxy.echo, i) for i in range(3)]
        with pytest.raises((concurrent.futures.TimeoutError, asyncio.TimeoutError)):
            await asyncio.to_thread(asks[0].result, 0.01)
        assert not (await asyncio.to_thread(concurrent.futures.wait, asks, 0.01)).done
        open_gate(gate)
        assert await asyncio.gather(*asks) == [0, 1, 2]

    asyncio.run(main())
    eventually(lambda: threading.active_count() == 1)


def test_while_another_thread_imports_asyncio_there_is_no_loop(monkeypatch):
    for name in ("asyncio", "asyncio.events"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert _waiting.running_loop() is None


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_proxy_that_is_gone_is_no_trouble_for_the_first_await(method, tmp_path):
    """Its descriptor is closed, and may be another's by now."""
    result = run_program(
        tmp_path,
        """
        import asyncio
        async def main(proxy):
            return [await ask(proxy.echo, i) for i in range(3)]
        if __name__ == "__main__":
            with Actor(Recorder(), context=context) as actor:
                with Actor(Recorder(), context=context) as other:
                    ask(other.proxy.echo).result(LIMIT)
                del other
                print(asyncio.run(main(actor.proxy)), asyncio.run(main(actor.proxy)))
        """,
        method,
    )
    assert result.stdout == "[0, 1, 2] [0, 1, 2]\n", result.stderr


def test_waiting_in_the_loop_itself_for_what_is_not_sent_yet(small, gate):
    async def main():
        asks = [ask(small.proxy.echo, i) for i in range(5)]
        with pytest.raises(concurrent.futures.TimeoutError):
            asks[-1].result(timeout=0.01)
        open_gate(gate)
        assert asks[-1].result(timeout=LIMIT) == 4
        assert await asks[0] == 0

    with pytest.warns(RuntimeWarning, match="stands still"):
        asyncio.run(main())


@pytest.mark.parametrize("end", ["kill", "close"])
def test_the_end_of_the_actor_ends_what_waits_for_room(end, gate):
    async def main():
        with Actor(Recorder(), maxsize=1) as actor:
            await tell(actor.proxy.wait_for, gate)
            await until(lambda: os.path.exists(f"{gate}.reached"))
            telling = [asyncio.ensure_future(tell(actor.proxy.note, i)) for i in range(5)]
            asks = [ask(actor.proxy.echo, i) for i in range(5)]
            await asyncio.sleep(0)
            if end == "kill":
                actor.kill()
            else:
                actor.close()
                open_gate(gate)
            expected = ActorDied if end == "kill" else ActorClosed
            found = await asyncio.gather(*asks[1:], *telling, return_exceptions=True)
            assert {type(error) for error in found[:4]} == {expected}
            # What is killed may still have been there for one more message.
            assert {type(error) for error in found[4:]} <= {expected, type(None)}

    asyncio.run(main())


def test_tell_raises_at_once_what_the_call_would_raise(recorder):
    async def main():
        with pytest.raises(TypeError, match="takes a method of a proxy"):
            await tell(print)
        with pytest.raises(TypeError, match="missing 1 required"):
            await tell(recorder.proxy.tell)
        with pytest.raises(TypeError, match="pickle"):
            await tell(recorder.proxy.note, threading.Lock())
        recorder.kill()
        recorder.join()
        with pytest.raises(ActorDied):
            await tell(recorder.proxy.note)

    asyncio.run(main())
