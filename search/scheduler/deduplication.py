"""Which configurations are new: a trie of the answers that factories were given.

A factory asks one question after the other, and which comes next may depend on the answers: so configurations are the
paths of a tree that grows as it is walked. Whether a path is new is known only after its last question; a value is
*explored* when everything below it was tried. A trial that follows another one, still being built, to where both have been
given the same answers cannot know whether there is more below: it waits until the other one is built.

A continuum never ends: a trial that was asked for one of its values is new, and leaves the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from search.space.domain import Domain, Parameter, Value
from search.study.records import Built, ParameterSet, Record, SegmentRequested, TrialEnded


@dataclass(slots=True)
class _Node:
    """A place in the tree: the next question's domain, its answers so far, and the trials walking below."""

    parent: _Node | None = None
    answer: Value = None
    domain: Domain | None = None
    children: dict[Value, _Node] = field(default_factory=dict)
    explored: set[Value] = field(default_factory=set)
    unbuilt: set[int] = field(default_factory=set)
    exhausted: bool = False


class ExploredValues:
    """Follows the journal.

    Args:
        parameters: those of the probe; with them, it is known at once when nothing can ever repeat.
        strangers: trials that began in another space, and are not followed.
    """

    def __init__(self, parameters: Sequence[Parameter] = (), strangers: Iterable[int] = ()) -> None:
        self._root = _Node()
        self._at: dict[int, _Node | None] = dict.fromkeys(strangers)
        self._walking: set[int] = set()
        node = self._root
        for parameter in parameters:
            node.domain = parameter.domain
            if not parameter.domain.contains(parameter.default):
                break
            node = node.children[parameter.default] = _Node(node, parameter.default)
        self._endless = any(p.domain.size is None and not p.conditions for p in parameters)

    @property
    def exhausted(self) -> bool:
        """Whether every configuration was tried."""
        return self._root.exhausted

    @property
    def claimed(self) -> bool:
        """Whether those being built may well be all that is left: until one is, there is room for no other."""
        return not self._endless and _open(self._root, len(self._walking) + 1) <= len(self._walking)

    def explored(self, trial: int) -> frozenset[Value]:
        """The answers to `trial`'s next question below which everything was tried; never all of them."""
        node = self._at.get(trial, self._root)
        return frozenset() if self._endless or node is None or node.exhausted else frozenset(node.explored)

    def follows(self, trial: int, value: Value) -> bool:
        """Whether another trial, still being built, was given the same answers as `trial`, `value` included."""
        node = self._at.get(trial, self._root)
        if self._endless or node is None:
            return False
        child = node.children.get(value)
        return child is not None and bool(child.unbuilt - {trial})

    def apply(self, record: Record) -> bool:
        """Take in a record. True where a trial ended its walk, so that others need no longer wait for it."""
        if self._endless:
            return False
        if isinstance(record, SegmentRequested) and record.trial not in self._at:
            self._at[record.trial] = self._root
            self._walking.add(record.trial)
        if isinstance(record, ParameterSet):
            return self._step(record.trial, record.parameter.domain, record.value)
        if isinstance(record, Built):
            return self._arrive(record.trial)
        if isinstance(record, TrialEnded):
            return self._arrive(record.trial, failed=record.state == "failed", built=False)
        return False

    def _step(self, trial: int, domain: Domain, value: Value) -> bool:
        node = self._at.setdefault(trial, self._root)
        if node is None or (node.exhausted and node is not self._root):
            return False  # built already: a question of its training does not make it another configuration
        node.domain = domain
        if domain.size is None:
            self._leave(trial, node)
            self._at[trial] = None
            return True
        child = node.children.get(value)
        if child is None:
            child = node.children[value] = _Node(node, value)
        child.unbuilt.add(trial)
        self._at[trial] = child
        return False

    def _arrive(self, trial: int, *, built: bool = True, failed: bool = False) -> bool:
        node = self._at.get(trial)
        if node is None:
            return False
        self._leave(trial, node)
        # What raised an exception while it was built does so again with the same answers, unless others got further:
        # they were asked, and answered, more.
        if (built or (failed and node is not self._root and not node.children)) and not node.exhausted:
            self._exhaust(node)
        return True

    def _leave(self, trial: int, node: _Node | None) -> None:
        self._walking.discard(trial)
        while node is not None:
            node.unbuilt.discard(trial)
            node = node.parent

    def _exhaust(self, node: _Node) -> None:
        node.exhausted = True
        parent = node.parent
        while parent is not None and parent.domain is not None:
            parent.explored.add(node.answer)
            size = parent.domain.size
            # A range may have changed between trials: only answers that it still has count.
            if size is None or sum(map(parent.domain.contains, parent.explored)) < size:
                return
            parent.exhausted = True
            node, parent = parent, parent.parent


def _open(node: _Node, enough: int) -> int:
    """At least so many configurations below `node` are untried or being built; counts no further than to `enough`."""
    if node.exhausted:
        return 0
    if node.domain is None:
        return 1
    if node.domain.size is None:
        return enough
    found = max(0, node.domain.size - len(node.children))
    for child in node.children.values():
        if found >= enough:
            break
        found += _open(child, enough - found)
    return min(found, enough)
