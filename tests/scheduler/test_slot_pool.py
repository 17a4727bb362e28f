"""The pool of slots, and the affinity of trials to them."""

from __future__ import annotations

import random

import pytest

from search.devices.gpus import Gpu
from search.devices.slots import make_slots, slots_sharing_memory
from search.scheduler.affinity import Affinity
from search.scheduler.slot_pool import SlotPool

TWO_GPUS = [{2}, {3}, {0}, {1}]
"""Two shares of each of two GPUs: slots 0 and 2, 1 and 3."""


def test_slots_are_taken_in_order_until_there_are_none() -> None:
    slots = SlotPool(TWO_GPUS)
    assert [slots.take() for _ in range(5)] == [0, 1, 2, 3, None]
    slots.release(2)
    assert slots.take() == 2


def test_nothing_runs_beside_a_trial_that_runs_alone() -> None:
    slots = SlotPool(TWO_GPUS)
    assert slots.take(alone=True) is not None
    others = [slots.take() for _ in range(3)]
    assert sorted(slot for slot in others if slot is not None) in ([0, 2], [1, 3])
    assert others[-1] is None


def test_a_device_is_cleared_for_a_trial_that_waits_to_run_alone() -> None:
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


def test_a_device_that_no_trial_waits_for_is_used_again() -> None:
    slots = SlotPool(TWO_GPUS)
    for _ in range(4):
        slots.take()
    assert slots.take(alone=True) is None
    slots.release(0)
    slots.stop_clearing()
    assert slots.take() == 0


def test_trials_alone_are_not_disturbed_and_every_trial_gets_a_slot() -> None:
    rng = random.Random(0)
    for _ in range(200):
        devices, shares = rng.randint(1, 4), rng.randint(1, 3)
        count = devices * shares
        sharing = [{other for other in range(count) if (other - slot) % devices == 0} - {slot} for slot in range(count)]
        slots, in_use, waiting = SlotPool(sharing), dict[int, bool](), 0
        for _ in range(60):
            waiting += rng.random() < 0.2
            while waiting and (slot := slots.take(alone=True)) is not None:
                assert not sharing[slot] & in_use.keys()
                in_use[slot] = True
                waiting -= 1
            if not waiting:
                slots.stop_clearing()
            while (slot := slots.take()) is not None:
                assert not any(in_use.get(other, False) for other in sharing[slot])
                assert slot not in in_use
                in_use[slot] = False
            assert in_use, "nothing runs, and no slot was given"
            slots.release(ended := rng.choice(sorted(in_use)))
            del in_use[ended]
        for _ in range(count + waiting):  # every trial gets a slot in the end
            if in_use:
                slots.release(ended := min(in_use))
                del in_use[ended]
            while waiting and (slot := slots.take(alone=True)) is not None:
                in_use[slot] = True
                waiting -= 1
        assert not waiting


def test_closed_slots_take_no_work_until_they_open() -> None:
    slots = SlotPool([()] * 3, closed=[2])
    slots.close(0)
    assert [slots.take(), slots.take()] == [1, None]
    slots.close(1)  # its work goes on
    slots.release(1)
    assert slots.take() is None
    assert slots.take(alone=True) is None
    slots.open(1, ())
    slots.open(1, ())
    assert [slots.take(), slots.take()] == [1, None]
    slots.close(1)
    slots.open(1, ())
    assert slots.take() is None  # its work still runs
    slots.release(1)
    assert slots.take(alone=True) == 1


def test_new_slots_open_in_any_order() -> None:
    slots = SlotPool([()])
    slots.open(3, (2,))
    slots.close(2)
    assert [slots.take(), slots.take(), slots.take()] == [3, 0, None]
    slots.release(3)
    slots.open(2, (3,))
    assert slots.take(alone=True) == 2
    assert slots.take() is None  # 3 shares the device of 2, and 1 has not opened
    slots.open(1, ())
    assert slots.take() == 1


def test_a_new_slot_has_the_next_number_and_its_device_is_known() -> None:
    slots = SlotPool([{1}, {0}])
    slots.open(2, {0, 1})
    assert slots.take(alone=True) is not None
    assert slots.take() is None
    slots = SlotPool([{1}, {0}])
    slots.open(1, ())  # on another machine now
    slots.open(2, {0})
    assert slots.take(alone=True) == 2
    assert [slots.take(), slots.take()] == [1, None]


def test_slots_that_share_a_device_are_known() -> None:
    gpus = [Gpu(index, f"GPU-{index}", "", 0) for index in range(2)]
    slots = make_slots(gpus, 4, range(4), None, 0.5)
    assert slots_sharing_memory(slots) == tuple(
        frozenset(o.index for o in slots if o.gpus == s.gpus and o is not s) for s in slots
    )
    assert slots_sharing_memory(slots)[0] != frozenset()
    assert slots_sharing_memory(make_slots(gpus, 4, range(4))) == (frozenset(), frozenset())
    assert slots_sharing_memory(make_slots((), 4, range(4), 3)) == ({1, 2}, {0, 2}, {0, 1})


def test_a_slot_is_swapped_for_a_free_one() -> None:
    slots = SlotPool([(), (), (3,), (2,)])
    assert slots.swap(take(slots), 1) == 1
    assert slots.swap(take(slots), 1) == 0
    assert slots.swap(take(slots), None) == 2
    assert slots.take() == 3
    assert slots.take() is None


def take(slots: SlotPool) -> int:
    slot = slots.take()
    assert slot is not None
    return slot


def test_trials_are_assigned_to_the_slot_where_they_were_trained_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.scheduler.affinity.MAX_TRIALS", 2)
    affinity = Affinity()
    affinity.assign(0, 0)
    affinity.assign(1, 0)
    affinity.assign(0, 1)
    assert (affinity.slot_of(0), affinity.slot_of(1), affinity.slot_of(2)) == (1, 0, None)
    affinity.assign(2, 0)
    affinity.assign(3, 0)
    assert (affinity.trials_of(0), affinity.trials_of(1), affinity.trials_of(2)) == ((2, 3), (0,), ())
    assert [affinity.may_wait(3), affinity.may_wait(3)] == [True, False]
    affinity.assign(3, 0)
    assert affinity.may_wait(3)
    affinity.release(2)
    affinity.release(2)
    assert affinity.trials_of(0) == (3,)
