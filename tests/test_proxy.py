"""The proxy: what it shows of the wrapped class, and where it can go."""

from __future__ import annotations

import copy
import functools
import inspect
import multiprocessing
import pickle
import pydoc
import threading

import pytest
import support
from support import LIMIT, Counter, Recorder, eventually

from pactor import Actor, ask
from pactor._proxy import Proxy

UNPICKLABLE = threading.Lock()


class Menagerie:
    """Has one method of each kind."""

    constant = 3

    class Nested:
        pass

    def plain(self, a, /, b, *more, c=UNPICKLABLE, d: int = 1, **rest) -> str:
        """Takes a lot."""
        return repr((a, b, more, d, sorted(rest.items())))

    @staticmethod
    def static(a, self=1):
        return ("static", a, self)

    @classmethod
    def klass(cls, a):
        return (cls.__name__, a)

    @property
    def prop(self):
        return 1

    def _private(self):
        return "private"

    def __call__(self):
        return "dunder"

    @functools.lru_cache  # noqa: B019
    def cached(self, a):
        return a

    partial = functools.partialmethod(plain, 1, 2)


def noting(method):
    @functools.wraps(method)
    def noted(self, *args, **kwargs):
        self.seen = args, kwargs

    return noted


class Notes:
    """Notes what it was called with."""

    def simple(self, len, OSError):
        self.seen = len, OSError

    def default(self, a, b=UNPICKLABLE):
        self.seen = a, b is UNPICKLABLE

    @noting
    def decorated(self, a):
        pass

    def by_name(self, a, *, b):
        self.seen = a, b

    def any(self, *rest):
        self.seen = rest

    def none():
        pass

    def seen_last(self):
        return self.seen


@pytest.fixture
def menagerie():
    with Actor(Menagerie(), name="zoo") as actor:
        yield actor.proxy


METHODS = ["plain", "static", "klass", "_private", "cached", "partial"]


def test_mirrors_every_method_that_is_not_dunder(menagerie):
    assert sorted(METHODS) == sorted(name for name in dir(menagerie) if not name.startswith("__"))


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_those_of_an_instance(menagerie, name):
    assert inspect.signature(getattr(Menagerie(), name)) == inspect.signature(getattr(menagerie, name))


def test_names_and_docstrings_are_the_methods_own(menagerie):
    assert "plain" == menagerie.plain.__name__
    assert "Takes a lot." == menagerie.plain.__doc__
    assert "Takes a lot." in pydoc.render_doc(menagerie.plain)
    assert "Has one method of each kind." == type(menagerie).__doc__


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("plain", (1, 2), {}),
        ("plain", (1,), {"b": 2, "d": 5, "x": 1}),
        ("plain", (1, 2, 3, 4), {"self": 1} | {"name": "n"}),
        ("static", (1,), {}),
        ("static", (1,), {"self": 2}),
        ("klass", (1,), {}),
        ("_private", (), {}),
        ("cached", (1,), {}),
        ("partial", (3,), {}),
    ],
)
def test_calls_arrive_as_they_were_made(menagerie, name, args, kwargs):
    if "name" in kwargs:
        kwargs.pop("self")
    assert getattr(Menagerie(), name)(*args, **kwargs) == ask(getattr(menagerie, name), *args, **kwargs).result(LIMIT)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "seen"),
    [
        ("simple", (1, 2), {}, (1, 2)),
        ("simple", (1,), {"OSError": 2}, (1, 2)),
        ("default", (1,), {}, (1, True)),
        ("default", (), {"b": 2, "a": 1}, (1, False)),
        ("by_name", (1,), {"b": 2}, (1, 2)),
        ("any", (), {}, ()),
        ("any", (1, 2, 3), {}, (1, 2, 3)),
        ("decorated", (1,), {}, ((1,), {})),
        ("decorated", (), {"a": 1}, ((), {"a": 1})),
    ],
)
def test_messages_arrive_as_they_were_sent(name, args, kwargs, seen):
    with Actor(Notes()) as actor:
        getattr(actor.proxy, name)(*args, **kwargs)
        assert seen == ask(actor.proxy.seen_last).result(LIMIT)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("plain", (), {}),
        ("plain", (1,), {}),
        ("plain", (1, 2), {"b": 2}),
        ("static", (), {}),
        ("klass", (1, 2), {}),
        ("_private", (1,), {}),
    ],
)
def test_a_call_that_does_not_fit_raises_as_python_does(menagerie, name, args, kwargs):
    for call in (getattr(menagerie, name), functools.partial(ask, getattr(menagerie, name))):
        with pytest.raises(TypeError, match=rf"Menagerie\.{name}\(\)"):
            call(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "count"), [("simple", 0), ("simple", 1), ("simple", 3), ("default", 3), ("by_name", 1), ("none", 0)]
)
def test_a_message_with_too_few_or_too_many_arguments_raises(name, count):
    with Actor(Notes()) as actor, pytest.raises(TypeError, match=rf"Notes\.{name}\(\)"):
        getattr(actor.proxy, name)(*range(count))


def test_an_argument_that_cannot_be_pickled_raises_in_the_caller(menagerie):
    for call in (menagerie.klass, functools.partial(ask, menagerie.klass)):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            call(lambda: None)
        with pytest.raises(TypeError):
            call(threading.Lock())
    assert ("Menagerie", 1) == ask(menagerie.klass, 1).result(LIMIT)


@pytest.mark.parametrize("name", ["prop", "constant", "Nested", "nothing", "__call__", "mro"])
def test_what_is_no_method_is_not_there(menagerie, name):
    with pytest.raises(AttributeError, match=r"Menagerie.*no method"):
        getattr(menagerie, name)


def test_attributes_cannot_be_set(menagerie):
    with pytest.raises(AttributeError, match="another process"):
        menagerie.value = 3


def test_a_call_returns_none(menagerie):
    assert menagerie.klass(1) is None


def test_is_equal_and_hashable_by_its_actor():
    with Actor(Counter()) as one, Actor(Counter()) as other:
        again = pickle.loads(pickle.dumps(one.proxy))
        assert one.proxy == again == copy.copy(again)
        assert one.proxy != other.proxy != 3
        assert {one.proxy: 1}[again] == 1


def test_pickles_to_little(menagerie):
    assert 500 > len(pickle.dumps(menagerie))


def test_repr_says_of_what_and_which(menagerie):
    assert "<proxy of Menagerie 'zoo'>" == repr(menagerie)


class Holder:
    """Has a proxy, and passes it on."""

    def __init__(self, proxy=None):
        self.proxy = proxy

    def hold(self, container):
        self.proxy = container["list"][0]

    def give(self):
        return self.proxy

    def use(self, n):
        self.proxy.add(n)

    def ask(self):
        return ask(self.proxy.total).result(LIMIT)


def test_goes_into_constructors_messages_containers_and_replies(context):
    with (
        Actor(Counter(), context=context) as counter,
        Actor(Holder(counter.proxy), context=context) as first,
        Actor(Holder, context=context) as second,
    ):
        first.proxy.use(1)
        second.proxy.hold({"list": [ask(first.proxy.give).result(LIMIT)]})
        second.proxy.use(2)
        assert counter.proxy == ask(second.proxy.give).result(LIMIT)
        assert 3 == eventually(lambda: ask(second.proxy.ask).result(LIMIT) == 3 and 3)


def test_is_there_for_all_threads_when_one_is_the_first_to_use_it():
    with Actor(Counter()) as counter:
        proxy = Proxy(counter.proxy.__channel__, (Counter.__module__, Counter.__qualname__))
        look_up = functools.partial(type(proxy).__getattr__, proxy)  # where a thread is that found no attribute
        proxy.add(2)
        look_up("add")(3)
        assert 5 == ask(counter.proxy.total).result(LIMIT)


def test_a_bound_method_can_be_sent_too(context):
    with Actor(Counter(), context=context) as counter, Actor(Recorder(), context=context) as recorder:
        add = ask(recorder.proxy.echo, counter.proxy.add).result(LIMIT)
        add(3)
        assert 3 == ask(counter.proxy.total).result(LIMIT)


def _use(proxy, n):
    proxy.add(n)
    return ask(proxy.total).result(LIMIT)


def test_works_in_plain_processes_and_pool_workers(context):
    with Actor(Counter(), context=context) as counter:
        process = context.Process(target=_use, args=(counter.proxy, 1))
        process.start()
        process.join(LIMIT)
        assert 0 == process.exitcode
        with context.Pool(2) as pool:
            pool.starmap(_use, [(counter.proxy, 1)] * 10)
            pool.close()
            pool.join()
        assert 11 == ask(counter.proxy.total).result(LIMIT)


class Blind:
    """Only passes on what it gets, to those who know what it is."""

    def pass_on(self, value):
        return value

    def has(self, module):
        import sys

        return module in sys.modules


def test_its_class_need_not_be_importable_where_it_only_travels_through(tmp_path, monkeypatch):
    (tmp_path / "far_away.py").write_text("class Thing:\n    def value(self):\n        return 7\n")
    spawn = multiprocessing.get_context("spawn")
    with Actor(Blind(), context=spawn) as blind:
        ask(blind.proxy.has, "sys").result(LIMIT)  # started, and without the path below
        monkeypatch.syspath_prepend(str(tmp_path))
        import far_away

        with Actor(far_away.Thing(), context=multiprocessing.get_context("fork")) as thing:
            back = ask(blind.proxy.pass_on, [thing.proxy]).result(LIMIT)[0]
            assert 7 == ask(back.value).result(LIMIT)
            assert not ask(blind.proxy.has, "far_away").result(LIMIT)


def test_a_subclass_shows_what_it_inherits():
    class_methods = [name for name in dir(Recorder) if not name.startswith("__")]
    with Actor(Recorder()) as actor:
        assert class_methods == [name for name in dir(actor.proxy) if not name.startswith("__")]


def test_a_class_that_was_changed_has_other_proxies_from_the_next_actor_on(context, monkeypatch):
    class Patched(Recorder):
        pass

    def echo(self, value, times):
        return value * times

    monkeypatch.setattr(support, "Patched", Patched, raising=False)
    Patched.__module__, Patched.__qualname__ = "support", "Patched"
    if context.get_start_method() != "fork":
        pytest.skip("what another process imports is not changed")
    with Actor(Patched(), context=context) as actor:
        assert 1 == ask(actor.proxy.echo, 1).result(LIMIT)
        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "echo", echo)
            patch.setattr(Patched, "total", lambda self: 3, raising=False)
            with Actor(Patched(), context=context) as other:
                assert "spamspam" == ask(other.proxy.echo, "spam", times=2).result(LIMIT)
                assert 3 == ask(other.proxy.total).result(LIMIT)
                other.proxy.enqueue_many(2)
                eventually(lambda: [0, 1] == ask(other.proxy.all).result(LIMIT))
    with Actor(Patched(), context=context) as actor:
        assert not hasattr(actor.proxy, "total")
        with pytest.raises(TypeError):
            actor.proxy.echo("spam", times=2)
