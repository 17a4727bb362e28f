"""Which slots are free, and for whom."""

from __future__ import annotations

import random

import pytest

from search.devices.gpus import Gpu
from search.devices.slots import make_slots, sharing
from search.scheduler.affinity import Affinity
from search.scheduler.slot_pool import SlotPool

TWO_GPUS = [{2}, {3}, {0}, {1}]
"""Two shares of each of two GPUs: slots 0 and 2, 1 and 3."""


def test_slots_are_taken_in_order_until_there_are_none() -> None:
    slots = SlotPool(TWO_GPUS)
    assert [slots.take() for _ in range(5)] == [0, 1, 2, 3, None]
    slots.release(2)
    assert slots.take() == 2


def test_nothing_is_done_beside_one_that_is_alone() -> None:
    slots = SlotPool(TWO_GPUS)
    assert slots.take(alone=True) is not None
    others = [slots.take() for _ in range(3)]
    assert sorted(slot for slot in others if slot is not None) in ([0, 2], [1, 3])
    assert others[-1] is None


def test_a_device_is_cleared_for_one_that_waits() -> None:
    slots = SlotPool(TWO_GPUS)
    for _ in range(4):
        slots.take()
    assert slots.take(alone=True) is None
    slots.release(0)
    assert slots.take() is None  # it is being cleared
    slots.release(1)
    assert slots.take() == 1  # the other device goes on
    slots.release(2)
    assert slots.take(alone=True) in (0, 2)
    assert slots.take() is None
    slots.release(3)
    assert slots.take() == 3


def test_a_device_that_nobody_waits_for_is_used_again() -> None:
    slots = SlotPool(TWO_GPUS)
    for _ in range(4):
        slots.take()
    assert slots.take(alone=True) is None
    slots.release(0)
    slots.reopen()
    assert slots.take() == 0


def test_at_random_nobody_is_disturbed_and_everybody_gets_a_slot() -> None:
    rng = random.Random(0)
    for _ in range(200):
        devices_, shares = rng.randint(1, 4), rng.randint(1, 3)
        count = devices_ * shares
        sharing = [
            {other for other in range(count) if (other - slot) % devices_ == 0} - {slot} for slot in range(count)
        ]
        slots, taken, waiting = SlotPool(sharing), dict[int, bool](), 0
        for _ in range(60):
            waiting += rng.random() < 0.2
            while waiting and (slot := slots.take(alone=True)) is not None:
                assert not sharing[slot] & taken.keys()
                taken[slot] = True
                waiting -= 1
            if not waiting:
                slots.reopen()
            while (slot := slots.take()) is not None:
                assert not any(taken.get(other, False) for other in sharing[slot])
                assert slot not in taken
                taken[slot] = False
            assert taken, "nothing runs, and nothing could be had"
            slots.release(ended := rng.choice(sorted(taken)))
            del taken[ended]
        for _ in range(count + waiting):  # all are served in the end
            if taken:
                slots.release(ended := min(taken))
                del taken[ended]
            while waiting and (slot := slots.take(alone=True)) is not None:
                taken[slot] = True
                waiting -= 1
        assert not waiting


def test_what_shares_a_device_is_known() -> None:
    gpus = [Gpu(index, f"GPU-{index}", "", 0) for index in range(2)]
    slots = make_slots(gpus, 4, range(4), None, 0.5)
    assert sharing(slots) == tuple(frozenset(o.index for o in slots if o.gpus == s.gpus and o is not s) for s in slots)
    assert sharing(slots)[0] != frozenset()
    assert sharing(make_slots(gpus, 4, range(4))) == (frozenset(), frozenset())
    assert sharing(make_slots((), 4, range(4), 3)) == ({1, 2}, {0, 2}, {0, 1})


def test_a_free_slot_that_is_wanted_is_swapped_for() -> None:
    slots = SlotPool([(), (), (3,), (2,)])
    assert slots.swap(taken(slots), 1) == 1
    assert slots.swap(taken(slots), 1) == 0
    assert slots.swap(taken(slots), None) == 2
    assert slots.take() == 3
    assert slots.take() is None


def taken(slots: SlotPool) -> int:
    slot = slots.take()
    assert slot is not None
    return slot


def test_trials_are_at_home_where_they_were_trained_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.scheduler.affinity.MOST", 2)
    affinity = Affinity()
    affinity.settle(0, 0)
    affinity.settle(1, 0)
    affinity.settle(0, 1)
    assert (affinity.of(0), affinity.of(1), affinity.of(2)) == (1, 0, None)
    affinity.settle(2, 0)
    affinity.settle(3, 0)
    assert (affinity.trials(0), affinity.trials(1), affinity.trials(2)) == ((2, 3), (0,), ())
    assert [affinity.wait(3), affinity.wait(3)] == [True, False]
    affinity.settle(3, 0)
    assert affinity.wait(3)
    affinity.leave(2)
    affinity.leave(2)
    assert affinity.trials(0) == (3,)
