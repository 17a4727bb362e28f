"""The interface of an executor. Its contract kit is `search.testing.ExecutorContract`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from search.devices.slots import Slot
from search.executors.waiting import quiet
from search.messages import Evaluate, Message, Probe, Probed, ProbeFailed, Segment, WorkCommand
from search.options import Options
from search.space.error_text import escape_controls

Handle = Callable[[int, int, Message], None]
"""A function that an executor calls with (slot, work, message).

`work` is the `id` of the `Segment` or `Evaluate` that the message belongs to; 0 for `SlotOpened` and `SlotClosed`.
"""


def tell_user(text: str) -> None:
    """Show a worker's text while a probe goes on: the driver, which shows texts otherwise, waits for the probe."""
    with quiet():
        print(escape_controls(text), file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class ExecutorSetup:
    """The circumstances of a search, for the executor that runs it.

    Attributes:
        slots: the slots of this machine that the options ask for, each with its GPUs and cores.
        log: the file for output of processes that train nothing.
        keras_backend: `tensorflow`, `jax` or `torch`; None for Keras's own choice.
        compiled: the folder in which workers may keep compiled programs for later searches, if there is one.
        heartbeat: seconds without a message after which a worker counts as hung.
        zygote: for `local`: the zygote of all searches of this process, if they share one.
        options: the options of the search, for an executor that finds its own slots.
        fork: for `local`: how to fork this process in place of a new Python, if that is safe; else None.

    Example:
        The setup of a machine without GPUs, with one slot on core 0, for a test::

            >>> from pathlib import Path
            >>> from search.devices.slots import make_slots
            >>> from search.plugins import ExecutorSetup
            >>> setup = ExecutorSetup(make_slots(gpus=(), cpus=1, core_ids=[0]), log=Path("search.log"))
            >>> len(setup.slots)
            1
    """

    slots: tuple[Slot, ...]
    log: Path
    keras_backend: str | None = None
    compiled: Path | None = None
    heartbeat: float = 300.0
    zygote: Any = None
    options: Options | None = None
    fork: Any = None


class Executor(Protocol):
    """The part that runs segments and final evaluations, in slots that are numbered from 0.

    A slot runs at most one of them at a time. Whatever happens, its last message is one `SegmentEnded`, one `Evaluated`
    or one `Lost`. After that the slot is free and ready for the next.

    Each piece of work has an `id`. Commands and messages carry it, and both sides drop those of another piece of work
    than the slot's present one: a process that was given up may still send some, or be sent some.

    Slots may come and go. `SlotClosed` says that a slot takes no new work, `SlotOpened` that it does again, or that
    there is one more. New slots have the next numbers and may open in any order. An executor that loses a machine
    sends `SlotClosed` for its slots and then `Lost` for their work. If it is told beforehand, it sends `SlotClosed` and
    gives the workers an `Interrupt` by itself: their trials go on in other slots, from where they are.

    An executor of another package is a class whose constructor, or classmethod `from_setup`, takes an `ExecutorSetup`
    first, and then the arguments of `--executor name:key=value,…` by name. It has as many slots as the setup. The
    workers are Python processes with this package: `search.worker.segment.run_segment` trains a segment there,
    `search.worker.evaluate_best.run_evaluation` evaluates, and `search.worker.probe.run_probe` probes.

    A machine may not see the study's folder. Its workers get their work with `storage="driver"` from the executor, if
    the work has no storage. The driver then answers their requests for files by `send`.

    Six things may be left out. `set_slots(slots)` takes other slots before the first segment, as a space file's
    options are known only after the probe. `in_process = True` says that the driver's own process trains, in one slot
    on one device. `closed` has the slots that are not open when the search begins. A classmethod `find_slots(options)`
    finds the slots in place of this machine's GPUs and cores, and raises OptionError if there are none;
    `set_options(options)` then takes the options after the probe. `description` is one line about it for the user.
    `retire(slot)` ends the process of a slot where nothing runs, if there is one, so that its memory is free: the user
    has paused the search. The next `start` begins another one.

    Attributes:
        protocol: the version of this protocol that the class was written for; 2 today.

    Example:
        An executor that writes down what it is told, around another one::

            from search.executors.simulated import Scenario, SimulatedExecutor

            class Recording:
                protocol = 2

                def __init__(self, inner):
                    self.commands = []
                    self._inner = inner

                def send(self, slot, work, command):
                    self.commands.append((slot, command))
                    self._inner.send(slot, work, command)

                def __getattr__(self, name):
                    return getattr(self._inner, name)

            scenario = Scenario(lambda hp: hp.Int("units", 2, 8), lambda run, epoch: 1 / epoch)
            executor = Recording(SimulatedExecutor(scenario))
    """

    protocol: int

    @property
    def slots(self) -> int:
        """Number of slots."""

    def probe(self, probe: Probe) -> Probed | ProbeFailed:
        """Probe a space in slot 0 while nothing runs, and wait for the result.

        Args:
            probe: the space, and what is to be found out.

        Returns:
            The findings, or why the space cannot be used.
        """

    def start(self, slot: int, work: Segment | Evaluate) -> None:
        """Start a segment or a final evaluation in a free slot.

        Args:
            slot: the slot's number.
            work: the piece of work, with its `id`.
        """

    def send(self, slot: int, work: int, command: WorkCommand) -> None:
        """Send a command to the worker in a slot. This has no effect if this piece of work does not run there.

        Args:
            slot: the slot's number.
            work: the `id` of the piece of work that the command is for.
            command: the command.
        """

    def kill(self, slot: int, work: int, reason: str) -> None:
        """End the process of a slot, whatever it is doing. Its last message is `Lost` with this reason.

        This has no effect if this piece of work does not run there, or if it runs in the driver's own process.

        Args:
            slot: the slot's number.
            work: the `id` of the piece of work that is to end.
            reason: one line for people.
        """

    def poll(self, handle: Handle, timeout: float) -> None:
        """Pass the workers' messages to `handle`, waiting up to `timeout` seconds for the first one.

        Args:
            handle: called with (slot, work, message).
            timeout: seconds.
        """

    def close(self, *, now: bool = False) -> None:
        """End all workers; with `now`, without waiting for anything. A second call has no effect."""
