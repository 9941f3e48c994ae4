"""What a wrapped class, an argument, a reply, an exception may be, of all that there is."""

from __future__ import annotations

import collections
import concurrent.futures
import decimal
import functools
import inspect
import multiprocessing
import os
import pickle
import re
import select
import signal
import socket
import sys
from multiprocessing import resource_sharer
from unittest import mock

import pytest
from edge_actors import Box, ExitsWhenLoaded, Frozen, Line, Odd, Panic, PanicsWhenLoaded, Pickled, Table
from programs import METHODS
from support import LIMIT, Counter, Recorder, ends, eventually, runs
from test_actor import run_program

import pactor
from pactor import Actor, ActorClosed, Mailbox, RemoteError, Restart, _proxy, ask
from pactor._telling import traceback_of


@pytest.fixture
def odd(context):
    with Actor(Odd(), context=context) as actor:
        yield actor.proxy


@pytest.fixture(params=[socket.socketpair, multiprocessing.Pipe], ids=["socket", "connection"])
def line(request):
    """The two ends of a line; the second one is to be sent."""
    here, there = request.param()
    with here, there:
        yield here, there
    resource_sharer.stop(LIMIT)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they are written")
def test_annotations_may_name_what_only_type_checkers_import():
    names = {}
    exec("class Typed:\n    def add(self, n: Decimal) -> Decimal: 'Adds.'", names)
    proxy = _proxy.class_for(names["Typed"])
    assert ["self", "n"] == list(inspect.signature(proxy.add).parameters)


def test_a_metaclass_hides_no_method(odd):
    odd.note_later("spam")
    assert odd.panics.__name__ == "panics"


def test_what_it_returns_that_was_told_may_be_whatever(odd):
    odd.dead()
    assert 1 == ask(odd.echo, 1).result(LIMIT)


def test_a_proxy_can_not_be_wrapped(odd):
    with pytest.raises(TypeError, match="an actor wraps an object"):
        Actor(odd)


@pytest.mark.parametrize("value", [collections.deque(), decimal.Decimal(1), re.compile("spam"), 1])
def test_what_takes_no_attribute_is_an_error_at_the_call(value):
    with pytest.raises(TypeError, match="derive a class"):
        Actor(value)


@pytest.mark.parametrize(
    "target", [len, lambda: 1, Recorder().echo, functools.partial(len), functools.partial(Box[int])]
)
def test_what_is_called_must_be_a_class(target):
    with pytest.raises(TypeError, match=r"an actor wraps an object, its class, or a functools\.partial of its class"):
        Actor(target)


def test_an_alias_of_a_class_is_an_error_at_the_call():
    with pytest.raises(TypeError, match="Box"):
        Actor(Box[int])
    with Actor(Box[int]()) as actor:
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)


@pytest.mark.parametrize("context", ["spawn", 1])
def test_what_is_no_context_is_an_error_at_the_call(context):
    with pytest.raises(TypeError, match="get_context"):
        Actor(Counter(), context=context)


def test_the_arguments_of_class_methods_written_in_c_are_checked_as_they_are():
    with Actor(Table()) as actor:
        assert {1: 2} == ask(actor.proxy.fromkeys, [1], 2).result(LIMIT)
        with pytest.raises(TypeError):
            actor.proxy.fromkeys()


def test_a_callable_that_can_not_be_hashed_is_no_reason_not_to_enqueue(odd):
    ask(odd.note_later, "spam").result(LIMIT)
    assert ["spam"] == ask(odd.all).result(LIMIT)


def test_a_proxy_leaves_it_to_others_whether_they_equal_it():
    with Actor(Counter()) as actor:
        assert actor.proxy == mock.ANY
        assert actor.proxy != 1


def test_all_names_are_there_for_completion():
    assert {*pactor.__all__} <= {*dir(pactor)}


@pytest.mark.parametrize(("raises", "error"), [(PanicsWhenLoaded, Panic), (ExitsWhenLoaded, RemoteError)])
def test_an_argument_that_raises_whatever_when_it_is_loaded_fails_its_message(odd, raises, error):
    with pytest.raises(error):
        ask(odd.echo, raises()).result(LIMIT)
    odd.note(raises())
    assert "goes on" == ask(odd.echo, "goes on").result(LIMIT)


def test_a_reply_that_raises_whatever_when_it_is_loaded_fails_its_ask(odd, gate, caplog):
    odd.wait_for(gate)
    asks = [ask(odd.echo, 1), ask(odd.panics), ask(odd.exits), ask(odd.echo, 2)]
    gate.touch()
    assert not concurrent.futures.wait(asks, LIMIT).not_done
    assert [1, 2] == [asks[i].result() for i in (0, 3)]
    for future in asks[1:3]:
        with pytest.raises(RemoteError):
            future.result()
    caplog.clear()  # what was logged holds the futures


def test_it_is_raised_once_where_somebody_waits_as_it_may_be_a_signal_handler_s(odd):
    future = ask(odd.exits)
    with pytest.raises(SystemExit):
        future.result(LIMIT)
    with pytest.raises(RemoteError, match="SystemExit: the reply can't be loaded"):
        future.result(LIMIT)


def test_a_frozen_exception_comes_with_its_type_and_its_traceback(odd):
    with pytest.raises(Frozen) as info:
        ask(odd.raise_frozen).result(LIMIT)
    assert "raise_frozen" in str(info.value.__cause__)


@pytest.mark.parametrize(("code", "exitcode"), [((1 << 32) - 1, 255), (-1, 255), (256, 0), ("spam", 1)])
def test_any_exit_code_ends_it(context, code, exitcode):
    with Actor(Odd(), context=context) as actor:
        actor.proxy.exit_with(code)
        actor.join(LIMIT)
        assert exitcode == actor.exitcode


def test_a_delay_may_be_any_number(context):
    with Actor(Delaying(), context=context) as actor:
        actor.proxy.note_soon(decimal.Decimal("0.001"))
        assert "noted" == ask(actor.proxy.noted).result(LIMIT)


class Delaying(Recorder):
    def note_soon(self, delay):
        self.future = concurrent.futures.Future()
        self.enqueue_later(delay, self.decide)

    def decide(self):
        self.future.set_result("noted")

    def noted(self):
        return self.future


# One is small; of the others each has other parts of its pickle in which the connection might be.
@pytest.mark.parametrize(
    "ballast", [None, bytes(1 << 20), list(range(1 << 16)), 1 << (1 << 20)], ids=["none", "bytes", "list", "int"]
)
def test_a_socket_or_a_connection_in_a_message_is_one_there_too(context, line, ballast):
    here, there = line
    with Actor(Line, context=context) as actor:
        for _ in range(2):  # it is known by then whether they are large
            actor.proxy.write(b"told", there, ballast)
            assert b"told" == _heard(here)
            ask(actor.proxy.write, b"asked", there, ballast).result(LIMIT)
            assert b"asked" == _heard(here)
            back, weight = ask(actor.proxy.echo, (there, ballast)).result(LIMIT)
            with back:
                os.write(back.fileno(), b"back")
            assert b"back" == _heard(here)
            assert weight == ballast


def test_a_socket_or_a_connection_comes_through_a_mailbox(line):
    here, there = line
    mailbox = Mailbox()
    mailbox.put(there)
    with mailbox.get(timeout=LIMIT) as end:
        os.write(end.fileno(), b"spam")
    assert b"spam" == _heard(here)
    mailbox.close()


def test_a_closed_connection_is_an_error_at_the_call():
    here, there = multiprocessing.Pipe()
    here.close()
    with there, Actor(Line) as actor:
        with pytest.raises(OSError, match="closed"):
            actor.proxy.write(b"spam", here)
        with pytest.raises(OSError, match="closed"):
            ask(actor.proxy.write, b"spam", here)


@pytest.mark.parametrize("on_failure", ["resume", Restart()], ids=["resume", "restart"])
def test_a_target_may_hold_a_socket_or_a_connection(context, line, on_failure):
    here, there = line
    with Actor(Line(there), context=context, on_failure=on_failure) as actor:
        actor.proxy.write(b"spam")
        assert b"spam" == _heard(here)
        if on_failure != "resume":
            for _ in range(2):
                actor.proxy.kill()
                actor.proxy.write(b"eggs")
                assert b"eggs" == _heard(here)


def test_what_can_not_be_pickled_beside_a_socket_or_a_connection_is_an_error_at_the_call(context, line):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        Actor(Line((line[1], lambda: None)), context=context)
    assert multiprocessing.context.get_spawning_popen() is None


@pytest.mark.parametrize("on_failure", ["resume", Restart()], ids=["resume", "restart"])
def test_a_target_is_pickled_under_each_start_method_whatever_it_says(context, on_failure):
    with Actor(Pickled("multiprocessing.connection"), context=context, on_failure=on_failure) as actor:
        assert "loaded" == ask(actor.proxy.how).result(LIMIT)


def _heard(line):
    assert select.select([line], [], [], LIMIT)[0]
    return os.read(line.fileno(), 100)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("on_failure", ["'resume'", "Restart()"])
def test_a_program_without_descriptors_ends_and_its_actors_do(tmp_path, method, on_failure):
    program = f"""
    import resource
    if __name__ == "__main__":
        actors = [Actor(Recorder(), context=context, on_failure={on_failure}) for _ in range(3)]
        print(*[ask(actor.proxy.pid).result(LIMIT) for actor in actors], flush=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
    """
    result = run_program(tmp_path, program, method)
    pids = result.stdout.split()
    assert len(pids) == 3, result.stderr
    eventually(lambda: not any(map(runs, map(int, pids))), lambda: result.stderr)


def test_one_that_cant_be_closed_at_the_programs_exit_keeps_no_other(tmp_path):
    program = """
    class Stubborn(Actor):
        def close(self):
            raise OSError(5, "spam")

    first, last = [Actor(Recorder(), context=context) for _ in range(2)]
    stubborn = Stubborn(Recorder(), name="stubborn", context=context)
    print(first.pid, stubborn.pid, last.pid)
    """
    result = run_program(tmp_path, program)
    assert not any(map(runs, map(int, result.stdout.split())))
    assert "actor 'stubborn' can't be closed, and is killed: [Errno 5] spam\n" == result.stderr


@pytest.mark.parametrize("on_failure", ["resume", Restart()], ids=["resume", "restart"])
def test_an_actor_that_finds_no_room_for_a_note_is_closed_all_the_same(context, on_failure):
    with Actor(Odd(), context=context, on_failure=on_failure) as actor:
        ask(actor.proxy.write_no_files).result(LIMIT)
        actor.close()
        assert ends(actor)
        with pytest.raises(ActorClosed):
            actor.proxy.note()


@pytest.mark.parametrize("method", METHODS)
def test_where_somebody_removes_the_place_that_it_lives_in_what_needs_it_fails(tmp_path, method):
    program = """
    import glob, shutil
    if __name__ == "__main__":
        with Actor(Recorder(), context=context) as actor:
            ask(actor.proxy.note).result(LIMIT)
            for place in glob.glob(os.environ["PACTOR_DIR"] + "/pactor-*"):
                shutil.rmtree(place)
            print(type(ask(actor.proxy.repeat, "x", 10_000).exception(LIMIT)).__name__)
            try:
                actor.proxy.note(bytes(10_000))
            except FileNotFoundError:
                print("can't be sent")
            print(ask(actor.proxy.echo, "goes on").result(LIMIT))
    """
    result = run_program(tmp_path, program, method)
    assert ["RemoteError", "can't be sent", "goes on"] == result.stdout.splitlines(), result.stderr


def test_one_that_has_ended_is_sent_no_signal_whoever_reaps_it(tmp_path):
    program = """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    actor = Actor(Recorder(), context=context)
    actor.close()
    actor.join()
    os.kill = print
    actor.kill()
    """
    result = run_program(tmp_path, program)
    assert ("", "") == (result.stdout, result.stderr)


def test_a_sigterm_that_the_program_has_blocked_ends_it(context):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with Actor(Recorder(), context=context) as actor:
            ask(actor.proxy.note).result(LIMIT)
            os.kill(actor.pid, signal.SIGTERM)
            assert ends(actor)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_the_error_of_one_that_has_ended_hides_none_of_the_programs_own():
    with Actor(Recorder()) as actor:
        proxy = pickle.loads(pickle.dumps(actor.proxy))
        ask(proxy.note).result(LIMIT)
    for send in (proxy.note, lambda: ask(proxy.note), lambda: proxy.note(bytes(10_000))):
        with pytest.raises(ActorClosed) as caught:
            try:
                raise KeyError("the program's own")
            finally:
                send()
        assert isinstance(caught.value.__context__, KeyError)
        assert not caught.value.__suppress_context__


def test_a_signal_handler_may_ask_while_the_first_ask_imports(tmp_path):
    program = """
    class Signals:
        def find_spec(self, name, *args):
            if name == "pactor._arrivals":
                os.kill(os.getpid(), signal.SIGUSR1)

    if __name__ == "__main__":
        with Actor(Recorder(), context=context) as actor:
            signal.signal(signal.SIGUSR1, lambda *_: print(ask(actor.proxy.echo, "handler").result(LIMIT)))
            sys.meta_path.insert(0, Signals())
            print(ask(actor.proxy.echo, "program").result(LIMIT))
    """
    result = run_program(tmp_path, program)
    assert ["handler", "program"] == result.stdout.splitlines(), result.stderr


def test_where_the_traceback_cant_be_imported_the_error_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "traceback", None)
    assert "ValueError, whose traceback can't be shown\n" == traceback_of(ValueError())
