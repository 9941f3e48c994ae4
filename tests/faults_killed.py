"""Faults: somebody is killed, stopped or interrupted."""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
import select
import signal
import threading

import pytest
from fault_actors import Asker, Recording, Stopping, note_all
from fault_support import SOON, Program, fault, files_in, is_stopped
from mailbox_workers import die, get_into, recorded
from support import LIMIT, Recorder, eventually, reached, within
from test_mailbox import is_being_read

from pactor import Actor, ActorClosed, ActorDied, Mailbox, Restart, ask

FOREVER = Restart(max_restarts=math.inf, backoff=0)


@fault("SIGKILL of the receiver under load", "every ask to it, of whatever process, ends within a second with why")
def kill_the_receiver(context, tmp_path):
    with Actor(Recorder(), context=context) as victim, Actor(Asker(), context=context) as other:
        ask(other.proxy.all).result(LIMIT)  # how long it takes to start is no part of this
        theirs = ask(other.proxy.ask_until_error, victim.proxy)
        mine = [ask(victim.proxy.echo, i) for i in range(500)]
        mine[10].result(LIMIT)
        os.kill(victim.pid, signal.SIGKILL)
        with within(SOON):
            errors = [future.exception(LIMIT) for future in mine]
            kind, text = theirs.result(LIMIT)
        died = [error for error in errors if error is not None]
        assert [None] * (500 - len(died)) + died == errors
        assert all(isinstance(error, ActorDied) and "SIGKILL" in str(error) for error in died)
        assert (ActorDied, True) == (kind, "SIGKILL" in text)


@fault("SIGKILL of a receiver under load, with Restart", "queued mail survives: it is served in order, none twice")
def kill_a_receiver_that_is_restarted(context, tmp_path):
    """Only what was being executed is lost."""
    log = tmp_path / "log"
    with Actor(functools.partial(Recording, log), context=context, on_failure=FOREVER) as actor:
        sender = context.Process(target=note_all, args=(actor.proxy, range(3_000)))
        sender.start()
        pids = set()
        for count in (200, 800, 1_500):
            eventually(lambda: len(recorded(log)) > count)  # noqa: B023
            pid = actor.pid
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: actor.pid != pid)  # noqa: B023
        sender.join(LIMIT)
        done = ask(actor.proxy.pid).result(LIMIT)
    numbers = [int(number) for (number,) in recorded(log)]
    assert sorted({*numbers}) == numbers
    assert 3_000 - 3 <= len(numbers)
    assert (3, True) == (len(pids), done not in pids)


@fault("SIGKILL of an actor that is asked in turn, with Restart", "every ask ends; none is executed twice, or later")
def kill_an_actor_that_is_asked_in_turn(context, tmp_path):
    """An ask whose asker was told that the actor goes on without it is not executed from then on."""
    log = tmp_path / "log"

    def executed():
        return [int(number) for (number,) in recorded(log)]

    with Actor(functools.partial(Recording, log), context=context, on_failure=FOREVER) as actor:
        lost, number = {}, 0
        for count in range(3):
            pid = actor.pid
            killer = threading.Timer(0.02 * count, os.kill, (pid, signal.SIGKILL))
            killer.start()
            while actor.pid == pid:
                number += 1
                try:
                    ask(actor.proxy.note, number).result(LIMIT)
                except ActorDied:
                    lost[number] = number in executed()
            killer.join()
        ask(actor.proxy.echo).result(LIMIT)
    numbers = executed()
    assert sorted({*numbers}) == numbers
    assert {*range(1, number + 1)} - {*numbers} <= {*lost}
    assert lost == {number: number in numbers for number in lost}


@fault("SIGKILL of a receiver that is idle, with Restart", "the next incarnation receives")
def kill_an_idle_receiver(context, tmp_path):
    with Actor(Recorder(), context=context, on_failure=FOREVER) as actor:
        for number in range(3):
            pid = ask(actor.proxy.pid).result(LIMIT)
            os.kill(pid, signal.SIGKILL)
            assert [] == ask(actor.proxy.all).result(LIMIT)
            actor.proxy.note(number)
            assert [number] == ask(actor.proxy.all).result(LIMIT)


@fault("SIGKILL of a receiver of a Mailbox that is idle", "the next one receives")
def kill_an_idle_receiver_of_a_mailbox(context, tmp_path):
    mailbox, results = Mailbox(), Mailbox()
    for number in range(2):
        victim = context.Process(target=get_into, args=(mailbox, results, 2))
        victim.start()
        mailbox.put(number)
        assert number == results.get(timeout=LIMIT)
        eventually(lambda: is_being_read(mailbox))
        victim.kill()
        victim.join()
        victim.close()
        mailbox.put("next")
        assert "next" == mailbox.get(timeout=LIMIT)


def killed(context, where, method, *args):
    """A process that is killed at that place of the call."""
    process = context.Process(target=die, args=(where, method, *args))
    process.start()
    process.join(LIMIT)
    assert -signal.SIGKILL == process.exitcode
    process.close()


@fault("SIGKILL of a sender in the middle of a payload of 50 MB", "nothing torn comes, others send on, no file is left")
def kill_a_sender_in_its_payload(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        for where in ("half os:writev", "before os:link"):
            actor.proxy.note("before")
            killed(context, where, actor.proxy.note, bytes(50_000_000))
            actor.proxy.note(bytes(100_000))
        assert ["before", bytes(100_000)] * 2 == ask(actor.proxy.all).result(LIMIT)
        assert [] == files_in(actor.proxy)


@fault(
    "SIGKILL of a sender between a payload and its message",
    "others send on, the file goes: with a maxsize when the actor idles, else with the mailbox",
)
def kill_a_sender_behind_its_payload(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        killed(context, "after os:link", actor.proxy.note, bytes(100_000))
        actor.proxy.note(bytes(100_000))
        assert [bytes(100_000)] == ask(actor.proxy.all).result(LIMIT)
        assert 1 == len(files_in(actor.proxy))
    assert not os.path.exists(actor.proxy.__channel__.mailbox)
    with Actor(Recorder(), context=context, maxsize=3) as actor:
        killed(context, "after os:link", actor.proxy.note, bytes(100_000))
        eventually(lambda: not files_in(actor.proxy))


def stop_and_fill(actor):
    """Stops an actor, asks it, and sends to it until there is no room; returns the reply to come, and the sender."""
    ask(actor.proxy.pid).result(LIMIT)
    os.kill(actor.pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(actor.pid))
    future, learnt = ask(actor.proxy.note, "asked"), []

    def send():
        try:
            note_all(actor.proxy, range(20_000))
        except ActorDied as error:
            learnt.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    poll = select.poll()
    poll.register(actor.proxy.__channel__.file, select.POLLOUT)
    eventually(lambda: not poll.poll(0))
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    return future, sender, learnt


@fault("SIGSTOP of the receiver, and SIGCONT", "an ask ends with its timeout, a sender waits, all goes on in order")
def stop_the_receiver(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        future, sender, _ = stop_and_fill(actor)
        os.kill(actor.pid, signal.SIGCONT)
        sender.join(LIMIT)
        assert None is future.result(LIMIT)
        assert ["asked", *range(20_000)] == ask(actor.proxy.all).result(LIMIT)


@fault("SIGKILL of a receiver that was stopped", "who asked, and who waits to send, learn that it died")
def kill_a_stopped_receiver(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        future, sender, learnt = stop_and_fill(actor)
        actor.kill()
        sender.join(LIMIT)
        for error in (learnt.pop(), future.exception(LIMIT)):
            assert "SIGKILL" in str(error)


# The owner is a program. Where it says that it is ready, it is killed.

IDLE = """
    if __name__ == "__main__":
        actors = [Actor(Recorder(), context=context) for _ in range(3)]
        for actor in actors:
            actor.proxy.note(bytes(100_000))
            ask(actor.proxy.pid).result(LIMIT)
        say("ready")
        signal.pause()
"""

GRANDCHILDREN = """
    if __name__ == "__main__":
        owner = Actor(Owner(), context=context)
        other = ask(owner.proxy.make, context.get_start_method(), Owner()).result(LIMIT)
        last = ask(other.make, context.get_start_method()).result(LIMIT)
        ask(last.pid).result(LIMIT)
        say("ready")
        signal.pause()
"""

#: Killed as soon as the process of its second actor is there, which has not done anything yet.
STARTING = """
    from mailbox_workers import die, get_into, recorded
    if __name__ == "__main__":
        first = Actor(Recorder(), context=context)
        ask(first.proxy.pid).result(LIMIT)
        module = {"fork": "fork", "forkserver": "forkserver", "spawn": "spawn_posix"}[context.get_start_method()]
        say("ready")
        die(f"after multiprocessing.popen_{module}:Popen._launch", functools.partial(Actor, context=context), Recorder)
"""


@fault("SIGKILL of the owner of idle actors", "all are gone within a second, the next program removes the rest")
def kill_the_owner_of_idle_actors(context, tmp_path):
    end_the_owner(context, tmp_path, IDLE, 4)


@fault("SIGTERM to the owner", "the same")
def terminate_the_owner(context, tmp_path):
    end_the_owner(context, tmp_path, IDLE, 4, signal.SIGTERM)


@fault("SIGKILL of a whole program, its actors and all", "the next program removes what it left")
def kill_a_program(context, tmp_path):
    with Program(context, tmp_path, IDLE) as program:
        assert "ready" == program.says()
        os.killpg(program.process.pid, signal.SIGKILL)
        program.process.wait(LIMIT)
        program.is_gone()
        assert [] != os.listdir(program.home)
        assert [] == program.left()


@fault("SIGKILL of the owner of actors that own actors", "all are gone within a second, and the rest removed")
def kill_the_owner_of_owners(context, tmp_path):
    end_the_owner(context, tmp_path, GRANDCHILDREN, 4)


@fault("SIGKILL of the owner while an actor starts", "all are gone, and the rest removed")
def kill_the_owner_of_one_that_starts(context, tmp_path):
    end_the_owner(context, tmp_path, STARTING, 0, None)


def end_the_owner(context, tmp_path, text, living, number=signal.SIGKILL):
    with Program(context, tmp_path, text) as owner:
        assert "ready" == owner.says()
        if number:
            assert living <= len(owner.living())
            owner.kill(number)
        owner.process.wait(LIMIT)
        owner.is_gone(owner.soon if number else LIMIT)
        assert -(number or signal.SIGKILL) == owner.process.returncode
        # One that was only starting may say that it finds its mailbox gone; multiprocessing says such things too.
        assert not number or "" == owner.process.stderr.read()
        assert [] == owner.left()


@fault("SIGKILL of the owner while an actor is busy", "it ends behind the message in execution, and logs what is left")
def kill_the_owner_of_a_busy_actor(context, tmp_path):
    gate = tmp_path / "gate"
    text = """
        if __name__ == "__main__":
            actor = Actor(Recorder(), context=context)
            actor.proxy.wait_for("gate")
            actor.proxy.sleep(0.05)  # for so long it may not look
            actor.proxy.wait_for("next")
            say(actor.pid)
            signal.pause()
    """
    with Program(context, tmp_path, text) as owner:
        pid = int(owner.says())
        reached(gate)
        owner.kill()
        owner.process.wait(LIMIT)
        assert pid in owner.living()
        gate.touch()
        owner.is_gone()
        assert not os.path.exists(tmp_path / "next.reached")
        left = owner.process.stderr.read()
        assert left.endswith("1 x wait_for())\n") and "; messages that it did not execute: " in left
        assert [] == owner.left()


@fault("Ctrl-C", "one traceback, the program's; all are gone within a second")
def interrupt(context, tmp_path):
    interrupt_a_program(context, tmp_path, "'resume'")


@fault("Ctrl-C, with Restart", "the same; nothing is restarted")
def interrupt_what_is_restarted(context, tmp_path):
    interrupt_a_program(context, tmp_path, "Restart()")


def interrupt_a_program(context, tmp_path, policy):
    text = f"""
        if __name__ == "__main__":
            arguments = dict(context=context, on_failure={policy})
            with Actor(Recorder(), **arguments) as idle, Actor(Recorder(), **arguments) as busy:
                for actor in (idle, busy):
                    ask(actor.proxy.pid).result(LIMIT)
                busy.proxy.wait_for("gate")
                waiting = ask(busy.proxy.pid)
                reached("gate")
                say("ready")
                waiting.result()
    """
    with Program(context, tmp_path, text) as program:
        assert "ready" == program.says()
        os.killpg(program.process.pid, signal.SIGINT)
        with within(program.soon):
            _, errors = program.ends(-signal.SIGINT)
        # Up to 3.10 it may come while another exception is handled, which Python shows with it.
        tracebacks = errors.count("Traceback") - errors.count("During handling of the above exception")
        assert (1, True) == (tracebacks, errors.endswith("KeyboardInterrupt\n")), errors
        assert [] == os.listdir(program.home)


@fault("SIGTERM to an actor", "it finishes its message, runs on_stop, ends; asks behind that end with ActorClosed")
def terminate_an_actor(context, tmp_path):
    gate, log = tmp_path / "gate", tmp_path / "log"
    with Actor(Stopping(log), context=context) as actor:
        ask(actor.proxy.pid).result(LIMIT)
        executing, queued = ask(actor.proxy.wait_for, gate), ask(actor.proxy.pid)
        reached(gate)
        os.kill(actor.pid, signal.SIGTERM)
        gate.touch()
        assert None is executing.result(LIMIT)
        with pytest.raises(ActorClosed, match="SIGTERM"):
            queued.result(LIMIT)
        assert actor.join(LIMIT)
        assert (0, "stopped\n") == (actor.exitcode, log.read_text())
