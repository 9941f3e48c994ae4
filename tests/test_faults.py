"""The fault table, under every start method."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal

import pytest
from faults import MODULES
from support import processes

pytest.register_assert_rewrite(*MODULES)
for module in MODULES:
    importlib.import_module(module)

from fault_support import FAULTS  # noqa: E402


@pytest.fixture
def context(request):
    return multiprocessing.get_context(request.param)


@pytest.fixture
def limited():
    """At the time limit the processes go first: to leave the block of an actor is to wait for it."""
    fail = signal.getsignal(signal.SIGALRM)  # of pytest-timeout

    def kill_and_fail(*args):
        for pid, _ in processes():
            os.kill(pid, signal.SIGKILL)
        fail(*args)

    signal.signal(signal.SIGALRM, kill_and_fail)
    yield
    signal.signal(signal.SIGALRM, fail)


@pytest.mark.parametrize(
    ("context", "fault"),
    [
        pytest.param(method, fault, marks=pytest.mark.timeout(fault.limit), id=f"{fault.title}, {method}")
        for fault in FAULTS
        for method in fault.methods
    ],
    indirect=["context"],
)
def test_is_survived(fault, context, tmp_path, limited):
    fault.provoke(context, tmp_path)
