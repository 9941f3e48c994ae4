"""Faults: what becomes of replies that are to come later, of coroutines, and of event loops."""

from __future__ import annotations

import asyncio
import math
import os
import signal

import pytest
from async_actors import Waiter
from fault_support import SOON, Program, fault
from support import LIMIT, Recorder, reached, within

from pactor import Actor, ActorClosed, ActorDied, Restart, ask

FOREVER = Restart(max_restarts=math.inf, backoff=0)


def all_begun(actor, gate):
    """100 asks that have begun and wait for the gate."""
    asks = [ask(actor.proxy.pass_by, gate, number) for number in range(100)]
    assert list(range(100)) == ask(actor.proxy.all).result(LIMIT)
    return asks


@fault("SIGKILL of an actor that runs 100 coroutines", "the asks end with ActorDied within a second")
def kill_among_coroutines(context, tmp_path):
    with Actor(Waiter(), context=context) as actor:
        asks = all_begun(actor, tmp_path / "gate")
        os.kill(actor.pid, signal.SIGKILL)
        with within(SOON):
            for future in asks:
                with pytest.raises(ActorDied, match="SIGKILL"):
                    future.result(LIMIT)


@fault("SIGKILL of an actor that runs 100 coroutines, with Restart", "the same, and what is queued is executed")
def kill_among_coroutines_with_restart(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Waiter(), context=context, on_failure=FOREVER) as actor:
        asks = all_begun(actor, gate)
        actor.proxy.kill()
        queued = ask(actor.proxy.echo_soon, "queued")
        for future in asks:
            with pytest.raises(ActorDied, match="it is restarted"):
                future.result(LIMIT)
        assert "queued" == queued.result(LIMIT)


@fault("SIGKILL of who is to reply later, and of whom it waits for", "the askers are told of the one that died")
def kill_in_a_chain(context, tmp_path):
    for victim in range(2):
        gate = tmp_path / f"gate{victim}"
        with Actor(Recorder(), context=context) as worker, Actor(Waiter(), context=context) as between:
            asked = ask(between.proxy.ask_other, worker.proxy.wait_for, str(gate))
            reached(gate)
            os.kill((worker, between)[victim].pid, signal.SIGKILL)
            with within(SOON), pytest.raises(ActorDied, match="Recorder" if victim == 0 else "Waiter"):
                asked.result(LIMIT)
            gate.touch()


@fault("close() while coroutines run", "they end as if nothing was, what comes meanwhile is refused at once")
def close_among_coroutines(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Waiter(), context=context) as other, Actor(Waiter(), context=context) as actor:
        ask(other.proxy.all).result(LIMIT)  # how long it takes to start is no part of this
        asks = all_begun(actor, gate)
        actor.close()
        with within(SOON), pytest.raises(ActorClosed):
            ask(other.proxy.ask_other, actor.proxy.echo).result(LIMIT)
        gate.touch()
        assert list(range(100)) == [future.result(LIMIT) for future in asks]


@fault("SIGKILL of the owner while coroutines run", "they are cancelled, all is gone within a second")
def kill_the_owner_among_coroutines(context, tmp_path):
    text = """
        from async_actors import Waiter
        if __name__ == "__main__":
            actor = Actor(Waiter(), context=context)
            actor.proxy.note_at_end("log")
            ask(actor.proxy.pid).result(LIMIT)
            say("ready")
            signal.pause()
    """
    with Program(context, tmp_path, text) as owner:
        assert "ready" == owner.says()
        owner.kill()
        owner.process.wait(LIMIT)
        owner.is_gone(owner.soon)
        assert "ended " == (tmp_path / "log").read_text()
        assert ("", []) == (owner.process.stderr.read(), owner.left())


@fault("Ctrl-C while coroutines run and are awaited", "one traceback, the program's; all are gone within a second")
def interrupt_among_coroutines(context, tmp_path):
    text = """
        import asyncio
        from async_actors import Waiter
        async def main(actor):
            waiting = [asyncio.ensure_future(wait(ask(actor.proxy.pass_by, "gate", n))) for n in range(100)]
            await ask(actor.proxy.all)
            say("ready")
            await asyncio.gather(*waiting)
        async def wait(future):
            return await future
        if __name__ == "__main__":
            with Actor(Waiter(), context=context) as actor:
                asyncio.run(main(actor))
    """
    with Program(context, tmp_path, text) as program:
        assert "ready" == program.says()
        os.killpg(program.process.pid, signal.SIGINT)
        with within(program.soon):
            _, errors = program.ends(-signal.SIGINT)
        assert errors.endswith("KeyboardInterrupt\n"), errors
        assert "actor '" not in errors
        assert [] == os.listdir(program.home)


@fault("an actor is killed while it is awaited", "the await ends within a second, the event loop never stands still")
def kill_while_awaited(context, tmp_path):
    gate = tmp_path / "gate"

    async def main():
        with Actor(Recorder(), context=context) as actor:
            waiting = asyncio.ensure_future(awaited(ask(actor.proxy.wait_for, str(gate))))
            while not os.path.exists(f"{gate}.reached"):
                await asyncio.sleep(0.001)
            os.kill(actor.pid, signal.SIGKILL)
            with pytest.raises(ActorDied, match="SIGKILL"):
                await asyncio.wait_for(waiting, SOON)

    asyncio.run(main())


async def awaited(future):
    return await future


@fault("an event loop ends with asks that it has not sent", "who waits for them sends them")
def end_a_loop_early(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder(), context=context, maxsize=1) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)

        async def main():
            return [ask(actor.proxy.echo, number) for number in range(20)]

        asks = asyncio.run(main())
        gate.touch()
        assert list(range(20)) == [future.result(LIMIT) for future in asks]
