"""When the lease of another process has expired."""

from datetime import timedelta

import pytest

from flowpod.background.leases import LeaseWatch
from flowpod.storage.runs.records import Lease
from tests.support.history import NOW

DAY_S = 86_400.0
OLD, NEW = Lease("other", NOW), Lease("other", NOW + timedelta(seconds=10))


class Clock:
    """A clock of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> LeaseWatch:
    return LeaseWatch(30, clock)


def test_a_lease_that_is_not_renewed_for_its_whole_time_has_expired(watch: LeaseWatch, clock: Clock) -> None:
    looks = []
    for _ in range(5):
        clock.now += 10
        looks.append(watch.expired([OLD]))
    assert looks == [[], [], [], [OLD], [OLD]]
    assert watch.expired([]) == []


def test_a_lease_that_changes_lives(watch: LeaseWatch, clock: Clock) -> None:
    for number in range(100):
        clock.now += 10
        assert watch.expired([Lease("other", NOW - timedelta(days=number))]) == []


def test_a_process_that_was_stopped_gives_the_others_time_to_renew(watch: LeaseWatch, clock: Clock) -> None:
    for _ in range(2):
        clock.now += 10
        watch.expired([OLD])
    clock.now += DAY_S  # the whole machine slept, and its clock went on
    assert watch.expired([OLD]) == []
    clock.now += 1
    assert watch.expired([NEW]) == []


def test_every_lease_gets_its_whole_time_after_an_outage(watch: LeaseWatch, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 10
        assert watch.expired([OLD]) == []
    watch.restart()
    for _ in range(3):
        clock.now += 10
        assert watch.expired([OLD]) == []
    clock.now += 10
    assert watch.expired([OLD]) == [OLD]
