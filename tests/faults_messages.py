"""Faults: what a message, a class or the end of an actor brings with it."""

from __future__ import annotations

import concurrent.futures
import functools
import pickle
import signal
import threading

import pytest
from ask_actors import TwoArguments, Unloadable
from fault_actors import (
    Fails,
    FailsInOnStart,
    HasClose,
    Logged,
    NeverEndsOnStart,
    NeverStarts,
    Owner,
    note_all,
)
from fault_support import Program, fault, files_in
from plain_actors import FailsToStart
from support import LIMIT, Recorder, reached

from pactor import Actor, ActorClosed, ActorDied, RemoteError, Restart, ask


@fault("an argument can't be pickled", "it raises in the caller, at the call; nothing was sent")
def send_what_cannot_be_pickled(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        for wrong in (lambda: None, threading.Lock(), [bytes(100_000), threading.Lock()]):
            for send in (actor.proxy.note, functools.partial(ask, actor.proxy.note)):
                with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
                    send(wrong)
        assert [] == ask(actor.proxy.all).result(LIMIT) == files_in(actor.proxy)


@fault("an argument can't be unpickled by the actor", "an ask fails with why, a tell is logged, the actor lives")
def send_what_cannot_be_unpickled(context, tmp_path):
    log = tmp_path / "log"
    with Actor(Logged.to(log), context=context) as actor:
        for size in (0, 100_000):
            with pytest.raises(ValueError, match="refused to load"):
                ask(actor.proxy.note, Unloadable(), bytes(size)).result(LIMIT)
            actor.proxy.note(Unloadable(), bytes(size))
        assert [] == ask(actor.proxy.all).result(LIMIT) == files_in(actor.proxy)
    assert 2 == log.read_text().count("a message can't be loaded here: skipped")
    assert 2 == log.read_text().count("ValueError: refused to load\n")


@fault("a return value can't be pickled, or not be loaded again", "the ask fails with a text that says which value")
def return_what_cannot_travel(context, tmp_path):
    with Actor(Fails(), context=context) as actor:
        with pytest.raises(RemoteError, match=r"return_unpicklable\(\) returned <unlocked _thread.lock"):
            ask(actor.proxy.return_unpicklable).result(LIMIT)
        with pytest.raises(RemoteError, match="can't be loaded here: refused to load"):
            ask(actor.proxy.return_unloadable).result(LIMIT)
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


@fault("an exception can't be pickled, or not be loaded again", "RemoteError with its type, its text, its traceback")
def raise_what_cannot_travel(context, tmp_path):
    with Actor(Fails(), context=context) as actor:
        for method, name, text in (
            ("raise_two_arguments", TwoArguments.__name__, "1 and 2"),
            ("raise_unpicklable", "HoldsALock", "holds a lock"),
        ):
            with pytest.raises(RemoteError) as caught:
                ask(getattr(actor.proxy, method)).result(LIMIT)
            assert (name, text) == (caught.value.type_name, caught.value.message)
            assert f"in {method}" in caught.value.traceback
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


def ends(context, message, kind, text, exitcode):
    """What a method does ends the actor: who asked, and those behind, learn of it as they should."""
    with Actor(Fails(), context=context, name="victim") as actor:
        first = message(actor.proxy)
        for reply in (first.result, lambda _: ask(actor.proxy.echo).result(LIMIT)):
            with pytest.raises(kind, match=f"'victim' .*{text}"):
                reply(LIMIT)
        assert actor.join(LIMIT)
        assert exitcode == actor.exitcode


@fault("sys.exit() in a method", "the actor ends; who asked learns that it ended itself")
def exit_in_a_method(context, tmp_path):
    ends(context, lambda proxy: ask(proxy.sys_exit), ActorDied, r"ended itself: sys_exit\(\) raised SystemExit", 1)


@fault("KeyboardInterrupt in a method", "the actor ends, silently, as by Ctrl-C; who asked learns that")
def interrupt_in_a_method(context, tmp_path):
    ends(context, lambda proxy: ask(proxy.interrupt), ActorDied, "was interrupted", 130)


@fault("os._exit() in a method", "who asked learns the exit code")
def exit_at_once_in_a_method(context, tmp_path):
    ends(context, lambda proxy: ask(proxy.exit, 7), ActorDied, "exit code 7", 7)


@fault("a segmentation fault in a method", "who asked learns the signal's name")
def segfault_in_a_method(context, tmp_path):
    ends(context, lambda proxy: ask(proxy.segfault), ActorDied, "SIGSEGV", -signal.SIGSEGV)


@fault("the class can't be imported there, as that of python -c", "the first ask raises with why; under fork it works")
def run_a_class_of_a_command(context, tmp_path):
    wrap_a_class_that_is_not_there(context, tmp_path, "-c")


@fault("the class can't be imported there, as that of a prompt", "the same")
def run_a_class_of_a_prompt(context, tmp_path):
    wrap_a_class_that_is_not_there(context, tmp_path, "prompt")


def wrap_a_class_that_is_not_there(context, tmp_path, how):
    said, _ = run_by(context, tmp_path, how, GUARDED)
    if context.get_start_method() == "fork":
        assert "works\n" in said
    else:
        assert "actor 'Here-1' could not start: AttributeError: " in said and "attribute 'Here'" in said


@fault(
    "the program can't be imported there, as that of a pipe",
    "the first ask raises, or Actor(); why, multiprocessing has said",
)
def run_a_program_from_a_pipe(context, tmp_path):
    said, errors = run_by(context, tmp_path, "pipe", GUARDED)
    if context.get_start_method() == "fork":
        assert "works\n" == said
    else:
        assert_it_did_not_begin(context, said)
        assert "FileNotFoundError" in errors


@fault(
    "spawn recursion: a program without its guard", "the first ask raises, or Actor(); why, multiprocessing has said"
)
def run_a_program_without_its_guard(context, tmp_path):
    said, errors = run_by(context, tmp_path, "file", GUARDED.replace("if __name__", "if True or __name__"))
    if context.get_start_method() == "fork":
        assert "works\n" == said
    else:
        assert_it_did_not_begin(context, said)
        assert "if __name__ == '__main__':" in errors


def assert_it_did_not_begin(context, said):
    # From 3.14 on the fork server imports the program itself, and dies of that.
    if context.get_start_method() != "forkserver" or "the fork server ended" not in said:
        assert "actor 'Here-1' died: " in said and "exit code 1" in said, said


GUARDED = """
    class Here:
        def method(self):
            return "works"
    if __name__ == "__main__":
        try:
            with Actor(Here(), context=context) as actor:
                say(ask(actor.proxy.method).result(LIMIT))
        except (ActorDied, OSError) as error:
            say(error)
"""


def run_by(context, tmp_path, how, text):
    with Program(context, tmp_path, text, how=how) as program:
        result = program.ends()
        assert [] == program.left()
        return result


@fault("__init__ or on_start raises in the actor", "the first ask raises with why; join() and close() work")
def fail_to_start(context, tmp_path):
    for cls, name in ((FailsToStart, "__init__"), (FailsInOnStart, "on_start")):
        with Actor(cls, context=context, name="stillborn") as actor:
            with pytest.raises(ActorDied, match="'stillborn' could not start: ValueError: no way") as caught:
                ask(actor.proxy.note).result(LIMIT)
            assert f"in {name}" in str(caught.value.__cause__)
            assert actor.join(LIMIT)
            assert 1 == actor.exitcode
            with pytest.raises(ActorDied, match="ValueError: no way"):
                actor.proxy.note()
            actor.close()


@fault("__init__ or on_start never returns", "asks end with their timeout; close(), join(timeout) and kill() work")
def never_start(context, tmp_path):
    for cls in (NeverStarts, NeverEndsOnStart):
        gate = tmp_path / cls.__name__
        with Actor(functools.partial(cls, gate), context=context) as actor:
            reached(gate)
            actor.proxy.note()
            reply = ask(actor.proxy.note)
            with pytest.raises(concurrent.futures.TimeoutError):
                reply.result(0.01)
            actor.close()
            assert not actor.join(0.01)
            actor.kill()
            assert actor.join(LIMIT)
            with pytest.raises(ActorDied, match="SIGKILL"):
                reply.result(LIMIT)


@fault("a crash loop, with Restart", "it ends after max_restarts within so many seconds; who asked learns that")
def crash_again_and_again(context, tmp_path):
    restart = Restart(max_restarts=3, within=1000, backoff=0)
    with Actor(Fails(), context=context, on_failure=restart) as actor:
        for _ in range(4):
            actor.proxy.kill()
        with pytest.raises(ActorDied, match=r"SIGKILL.* after 3 restarts within 1000 s"):
            ask(actor.proxy.pid).result(LIMIT)
        assert actor.join(LIMIT)
        assert -signal.SIGKILL == actor.exitcode
        with pytest.raises(ActorDied):
            actor.proxy.note()
    with Actor(FailsToStart, context=context, on_failure=restart) as actor:
        with pytest.raises(ActorDied, match="could not start: ValueError: no way"):
            ask(actor.proxy.note).result(LIMIT)
        assert actor.join(LIMIT)


@fault("close() with 10,000 messages queued", "all are executed, then it ends")
def close_with_many_queued(context, tmp_path):
    gate = tmp_path / "gate"
    actor = Actor(Recorder(), context=context)
    actor.proxy.wait_for(gate)
    note_all(actor.proxy, range(100))
    gate.touch()  # from here on the mailbox is drained
    note_all(actor.proxy, range(100, 10_000))
    everything = ask(actor.proxy.all)
    actor.close()
    assert [*range(10_000)] == everything.result(LIMIT)
    assert actor.join(LIMIT)
    assert 0 == actor.exitcode


@fault("close() twice, by several threads, and in a callback", "it is once; what is queued is executed")
def close_often(context, tmp_path):
    gate = tmp_path / "gate"
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.wait_for(gate)
        first, everything = ask(actor.proxy.note, 0), ask(actor.proxy.all)
        first.add_done_callback(lambda _: actor.close())
        threads = [threading.Thread(target=actor.close) for _ in range(8)]
        gate.touch()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        actor.close()
        assert [0] == everything.result(LIMIT)
        assert actor.join(LIMIT)
        assert 0 == actor.exitcode


@fault("close() in a method of an actor", "closes the actor that it owns; a method named close is like any other")
def close_in_a_method(context, tmp_path):
    with Actor(Owner(), context=context) as owner:
        child = ask(owner.proxy.make, context.get_start_method(), HasClose()).result(LIMIT)
        child.close()
        child.note("behind it")
        everything = ask(child.all)
        assert ask(owner.proxy.close_child).result(LIMIT)
        assert ["closed", "behind it"] == everything.result(LIMIT)
        with pytest.raises(ActorClosed):
            child.note()


@fault("a sender exits while 3 MB that it sent are unread", "it exits at once; all arrive")
def exit_with_mail_unread(context, tmp_path):
    gate = tmp_path / "gate"
    items = [(i, bytes([i]) * 100_000) for i in range(30)]
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.wait_for(gate)
        reached(gate)
        sender = context.Process(target=note_all, args=(actor.proxy, items))
        sender.start()
        sender.join(LIMIT)
        assert 0 == sender.exitcode
        gate.touch()
        assert items == ask(actor.proxy.all).result(LIMIT)


@fault("the program ends with live actors", "what is queued is executed; nothing on stderr, nothing is left")
def end_the_program(context, tmp_path):
    text = """
        class Printer:
            def show(self, text):
                say(text)
        class Asks:
            def __init__(self, printer):
                self.printer = printer
            def show(self, text):
                self.printer.show(text)
        if __name__ == "__main__":
            printer = Actor(Printer(), context=context)
            asks = Actor(Asks(printer.proxy), context=context)
            for i in range(100):
                asks.proxy.show(i)
    """
    with Program(context, tmp_path, text) as program:
        assert ("".join(f"{i}\n" for i in range(100)), "") == program.ends()
        assert [] == program.left()


@fault("a tell from atexit", "it is executed where actors are still open, and raises ActorClosed behind that")
def tell_at_exit(context, tmp_path):
    text = """
        def tell(word):
            try:
                actor.proxy.show(word)
            except ActorClosed:
                say("closed, for", word)
        class Printer:
            def show(self, text):
                say(text)
        if __name__ == "__main__":
            actor = Actor(Printer(), context=context)
            atexit.register(tell, "early")
    """
    with Program(context, tmp_path, text) as program:
        assert ("early\n", "") == program.ends()
    text = f"""
        import multiprocessing.util
        atexit.unregister(multiprocessing.util._exit_function)
        {text.strip().replace('"early"', '"late"')}
            atexit.register(multiprocessing.util._exit_function)  # so it comes first
    """
    with Program(context, tmp_path, text) as program:
        assert ("closed, for late\n", "") == program.ends()


@fault("an exception leaves the block of an actor", "what is queued is executed; one traceback, the program's")
def raise_in_the_block(context, tmp_path):
    text = """
        class Printer:
            def show(self, text):
                say(text)
        if __name__ == "__main__":
            with Actor(Printer(), context=context) as actor:
                for i in range(100):
                    actor.proxy.show(i)
                raise ValueError("mine")
    """
    with Program(context, tmp_path, text) as program:
        said, errors = program.ends(1)
        assert "".join(f"{i}\n" for i in range(100)) == said
        assert (1, True) == (errors.count("Traceback"), errors.endswith("ValueError: mine\n"))
        assert [] == program.left()
