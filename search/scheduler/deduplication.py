"""Deduplication: no configuration is tried twice, and a search knows when all were tried.

A model factory asks one question after another, and the next question may depend on the answers. So configurations are
the paths of a tree, which grows as trials answer questions. Only after the last question, when a trial's model is
built, is it known where a path ends. A value is *explored* when every configuration below it was tried. If a trial has
the same answers as another one that is not built yet, it is not known if more configurations are below. So it waits
until the other one is built.

A continuous parameter never runs out of values: a trial that is asked for one has a new configuration, and leaves the
tree. For a grid it has a few values, like any other. A trial with a parent is never in the tree: it may have an
explored configuration, as its curve is another one. A back end whose options have `repeats=True` may try a
configuration again: as long as it is in charge, nothing is known to be tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from search.backends.grid import listed_domain
from search.space.domain import Domain, Parameter, Value
from search.study.records import Built, ParameterSet, Record, SegmentRequested, TrialEnded


@dataclass(slots=True)
class _Node:
    """A node of the tree: the trials that have the same answers so far.

    Attributes:
        parent: the node before the last answer, None for the root.
        answer: the last answer.
        domain: of the next question; None as long as no trial was asked it.
        whole: the parameter's own domain, if `domain` has the values of a grid only.
        children: the nodes after the next question, by answer.
        explored: answers to the next question below which every configuration was tried.
        unbuilt: trials at or below this node whose model is not built yet.
        exhausted: every configuration from here on was tried.
    """

    parent: _Node | None = None
    answer: Value = None
    domain: Domain | None = None
    whole: Domain | None = None
    children: dict[Value, _Node] = field(default_factory=dict)
    explored: set[Value] = field(default_factory=set)
    unbuilt: set[int] = field(default_factory=set)
    exhausted: bool = False


class ConfigurationTree:
    """The configurations of a space that trials have reached. A fold of the journal.

    Args:
        parameters: those of the probe. With them, it is known at once if no configuration can ever repeat.
        ignored: trials that began in another space.

    Attributes:
        for_grid: whether a continuous parameter has the values of a grid; False at first.
        repeats: whether a configuration may be tried again; False at first.
    """

    def __init__(self, parameters: Sequence[Parameter] = (), ignored: Iterable[int] = ()) -> None:
        self.for_grid = self.repeats = False
        self._root = _Node()
        self._node_of: dict[int, _Node | None] = dict.fromkeys(ignored)
        self._unbuilt: set[int] = set()
        node = self._root
        for parameter in parameters:
            node.domain = parameter.domain
            if not parameter.domain.contains(parameter.default):
                break
            node = node.children[parameter.default] = _Node(node, parameter.default)
        self._has_continuum = any(p.domain.size is None and not p.conditions for p in parameters)

    def begin_phase(self, *, for_grid: bool = False, repeats: bool = False) -> None:
        """Begin a back end phase. A continuous parameter whose values in the grid were all tried has more without."""
        if self.for_grid and not for_grid:
            _forget_lists(self._root)
        self.for_grid, self.repeats = for_grid, repeats

    @property
    def _endless(self) -> bool:
        """True if no configuration can ever repeat, or any may."""
        return self.repeats or (self._has_continuum and not self.for_grid)

    @property
    def exhausted(self) -> bool:
        """True if every configuration was tried."""
        return self._root.exhausted and not self.repeats

    @property
    def may_be_exhausted(self) -> bool:
        """True if the trials not built yet may take all configurations that are left.

        Until one of them is built, there is no room for another trial.
        """
        count = len(self._unbuilt)
        return not self._endless and _count_left(self._root, count + 1) <= count

    def explored_values(self, trial: int) -> frozenset[Value]:
        """Return the explored answers to `trial`'s next question; never all of its domain."""
        node = self._node_of.get(trial, self._root)
        return frozenset() if self._endless or node is None or node.exhausted else frozenset(node.explored)

    def begun_values(self, trial: int) -> frozenset[Value]:
        """Return the answers to `trial`'s next question that other trials have, not built yet."""
        node = self._node_of.get(trial, self._root)
        if self._endless or node is None:
            return frozenset()
        return frozenset(value for value, child in node.children.items() if child.unbuilt - {trial})

    def must_wait(self, trial: int, value: Value) -> bool:
        """Return whether other trials, not built yet, may take all that is left below the answers of `trial`.

        Args:
            trial: its number.
            value: its next answer.
        """
        node = self._node_of.get(trial, self._root)
        if self._endless or node is None or (child := node.children.get(value)) is None:
            return False
        others = len(child.unbuilt - {trial})
        return others > 0 and _count_left(child, others + 1) <= others

    def apply(self, record: Record) -> bool:
        """Take in a record. Return whether its trial has left the tree, so that others need not wait for it."""
        if self._endless:
            return False
        if isinstance(record, SegmentRequested) and record.trial not in self._node_of:
            if record.parent is not None:
                self._node_of[record.trial] = None
                return False
            self._node_of[record.trial] = self._root
            self._unbuilt.add(record.trial)
        if isinstance(record, ParameterSet):
            return self._descend(record.trial, record.parameter, record.value)
        if isinstance(record, Built):
            return self._end_path(record.trial)
        if isinstance(record, TrialEnded):
            return self._end_path(record.trial, failed=record.state in ("failed", "infeasible"), built=False)
        return False

    def _descend(self, trial: int, parameter: Parameter, value: Value) -> bool:
        node = self._node_of.setdefault(trial, self._root)
        if node is None or (node.exhausted and node is not self._root):
            return False  # built already: a question of its training does not make it another configuration
        node.domain = listed_domain(parameter) if self.for_grid else parameter.domain
        node.whole = parameter.domain if node.domain is not parameter.domain else None
        if node.domain.size is None:
            self._leave(trial, node)
            self._node_of[trial] = None
            return True
        child = node.children.get(value)
        if child is None:
            child = node.children[value] = _Node(node, value)
        child.unbuilt.add(trial)
        self._node_of[trial] = child
        return False

    def _end_path(self, trial: int, *, built: bool = True, failed: bool = False) -> bool:
        node = self._node_of.get(trial)
        if node is None:
            return False
        self._leave(trial, node)
        # A build that raised an exception raises it again with the same answers. If others got further with them, they
        # were asked more questions, so this exception has another cause.
        if (built or (failed and node is not self._root and not node.children)) and not node.exhausted:
            self._mark_exhausted(node)
        return True

    def _leave(self, trial: int, node: _Node | None) -> None:
        """Take `trial` out of the nodes from `node` up to the root."""
        self._unbuilt.discard(trial)
        while node is not None:
            node.unbuilt.discard(trial)
            node = node.parent

    def _mark_exhausted(self, node: _Node) -> None:
        """Mark `node`, and each node above it whose answers are now all explored."""
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


def _forget_lists(node: _Node) -> bool:
    """Give the nodes from `node` on their whole domains. Return whether that leaves more to try below `node`."""
    more = {answer for answer, child in node.children.items() if _forget_lists(child)}
    if node.whole is None and not more:
        return False
    node.explored -= more
    node.domain, node.whole, node.exhausted = node.whole or node.domain, None, False
    return True


def _count_left(node: _Node, enough: int) -> int:
    """Return a lower bound of the configurations below `node` that are untried or not built yet, `enough` at most."""
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
        found += _count_left(child, enough - found)
    return min(found, enough)
