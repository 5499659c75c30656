"""Requests to stop inside a program that has signal handlers of its own."""

from __future__ import annotations

import signal

from memo_dist.cluster.stop import StopFlag


def test_handlers_and_flag_are_as_before_once_the_work_has_ended():
    flag = StopFlag()
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with flag.installed():
        signal.raise_signal(signal.SIGTERM)
        assert flag()
    assert not flag()
    assert [signal.getsignal(number) for number in numbers] == before
    with flag.installed():  # what stopped the work before does not stop this
        assert not flag()
