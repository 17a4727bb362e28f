"""Damages inside a journal: every command answers or refuses in one line, and never with another result.

    python tests/damages.py runs/digits/journal.jsonl --count 1000 --seed 0

Each damage is made in a copy of the journal of an undisturbed study: bytes are flipped, cut or inserted; whole lines
are deleted, doubled or swapped; values are forged, with right checksums and a right chain. Then a fork of this process,
with little memory and few seconds, reads it in every way. A damage follows from (seed, number):

    python tests/damages.py runs/digits/journal.jsonl --seed 0 --number 17
"""

from __future__ import annotations

import argparse
import collections
import gc
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from commands import without_waits

from search.errors import SearchError
from search.study import journal
from search.study.paths import StudyPaths

MEMORY = 400 << 20
"""Bytes that a fork may take beside those of its parent."""
FORKS = 2
"""Forks at a time."""
SECONDS = 20
"""Seconds of the processor that a fork may take."""

NASTY = (
    *(10**30, 10**18, 2**31, 2**31 - 1, 10**9, 1000, -1, -(10**30), 1e308, -1e308, 5e-324, 0.5, 0, 1),
    *(float("nan"), float("inf"), None, True, "", "x", "../x", "\x1b[31m", "nan", [], [1], {}, {"a": 1}, "y" * 10_000),
)


# Damages --------------------------------------------------------------------------------------------------------------


def flip(lines: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(b"".join(lines))
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(lines: list[bytes], rng: random.Random) -> bytes:
    data = b"".join(lines)
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 10, 300, 5000)) :]


def insert(lines: list[bytes], rng: random.Random) -> bytes:
    data = b"".join(lines)
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((b"\n", b"\0", b"}", b"\xff", rng.randbytes(40), bytes(300))) + data[at:]


def rearrange(lines: list[bytes], rng: random.Random) -> list[bytes]:
    """Delete, double or swap lines."""
    found = list(lines)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del found[at : at + rng.choice((1, 1, 2, 10))]
        case 1:
            found.insert(other, found[at])
        case 2:
            found[at], found[other] = found[other], found[at]
        case 3:
            found[at : at + 2] = found[at : at + 2][::-1]
    return found


def move_lines(lines: list[bytes], rng: random.Random) -> bytes:
    return b"".join(rearrange(lines, rng))


def chain(bodies: Sequence[dict[str, Any]]) -> bytes:
    """Return lines with right checksums, of which each follows the one before."""
    previous, lines = "00000000", []
    for body in bodies:
        text = json.dumps({**body, "prev": previous}, separators=(",", ":"), ensure_ascii=False)[:-1].encode()
        previous = f"{zlib.crc32(text):08x}"
        lines.append(text + f',"crc":"{previous}"}}\n'.encode())
    return b"".join(lines)


def bodies_of(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines]
    return [{name: value for name, value in body.items() if name not in ("prev", "crc")} for body in found]


def forge_order(lines: list[bytes], rng: random.Random) -> bytes:
    return chain(bodies_of(rearrange(lines, rng)))


def forge_value(lines: list[bytes], rng: random.Random) -> bytes:
    """Replace values anywhere in a line; or delete or add one."""
    bodies = bodies_of(lines)
    kinds = [body["kind"] for body in bodies]
    for _ in range(rng.choice((1, 1, 1, 2))):
        at = rng.randrange(len(bodies))
        # Most lines are of few kinds: half of the damages are in any kind alike.
        if rng.random() < 0.5:
            kind = rng.choice(sorted(set(kinds)))
            at = rng.choice([number for number, each in enumerate(kinds) if each == kind])
        places: list[tuple[Any, Any]] = []
        find_places(bodies[at], places)
        inside, key = rng.choice(places)
        if rng.random() < 0.1:
            del inside[key]
        elif type(inside[key]) is int and rng.random() < 0.4:
            inside[key] += rng.choice((-1, 1, 2))
        else:
            inside[key] = rng.choice(NASTY)
    return chain(bodies)


def find_places(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Collect each value within `value`, as (the object or list that holds it, its name or index)."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        places.append((value, key))
        if isinstance(inner, (dict, list)):
            find_places(inner, places)


DAMAGES: dict[str, Callable[[list[bytes], random.Random], bytes]] = {
    "flip": flip,
    "cut": cut,
    "insert": insert,
    "move lines": move_lines,
    "forge order": forge_order,
    "forge value": forge_value,
}
KINDS = ("flip", "cut", "insert", "move lines", "move lines", "forge order", "forge order", *["forge value"] * 5)


# Readers --------------------------------------------------------------------------------------------------------------


def run_command(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run a command. Return its exit code and its output."""
    from search import cli

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(list(arguments))
    return code, out.getvalue(), without_waits(err.getvalue())


def checked(arguments: Sequence[str]) -> str | None:
    """Run a command. Return its output, or None if it was refused in one line."""
    code, out, err = run_command(arguments)
    if code == 0:
        return out
    refusal = err.splitlines()[-1:] if code in (1, 2) else []
    assert "".join(refusal).startswith("search: "), (arguments, code, out[-300:], err[-300:])
    assert len(err.splitlines()) == 1, (arguments, err[-500:])
    assert len(err) < 1000, (arguments, err[:1000])
    return None if code == 2 else ""


def resume_without_training(paths: StudyPaths) -> None:
    """Do what a resume does before its workers train."""
    from search import options
    from search.backends import registry
    from search.driver.prepared import replay
    from search.driver.study_handle import StudyHandle
    from search.scheduler.controller import Controller
    from search.scheduler.limits import Limits
    from search.study.records import SearchStarted
    from search.study.study import Study

    handle = StudyHandle(paths)
    opts = options.resolve_options({}, before=handle.options)
    study = Study()

    def make(phase: Any) -> Any:
        return registry.make_backend(phase.backend, phase.options, study.objective, study.seed, study.parameters)

    limits = Limits(max_trials=opts.max_trials, max_total_epochs=opts.total_epochs, executions=2)
    controller = Controller(study, make, limits, 1, opts.max_epochs, opts.try_first)
    replay(controller, handle)
    controller.begin([SearchStarted("h", 1, handle.options)], handle.entries[-1].time)


def other_readers(paths: StudyPaths, *, report: bool) -> list[Callable[[], Any]]:
    from search.report.writing import write_report
    from search.results.study_results import find_results
    from search.tracking.mlflow.layout import Projection

    def project() -> None:
        projection = Projection()
        for entry in journal.read(paths.journal):
            projection.take(entry)

    def results() -> None:
        found = find_results("t", "runs")
        found.trials_dataframe(), found.curves_dataframe(), repr(found), found.best_trials()

    return [
        lambda: resume_without_training(paths),
        project,
        results,
        *([lambda: write_report([paths])] if report else []),
    ]


def read_in_every_way(original: list[bytes], data: bytes, kind: str, report: bool) -> str:
    """Read the damaged journal `data`, in this process. Return a word for what happened."""
    paths = StudyPaths.of("runs", "t")
    paths.folder.mkdir(parents=True)
    paths.journal.write_bytes(data)
    whole = checked(["status", "t"]) is not None
    answer = checked(["trials", "t", "--json"])
    assert (answer is not None) == whole
    # All commands read a journal by one function: those on a damaged one take turns.
    others = (["trials", "t"], ["best", "t"], ["best", "t", "--json"], ["show", "t", "0"], ["show", "t", "--curve"])
    for words in others if whole else random.Random(zlib.crc32(data)).sample(others, 1):
        checked(words)
    refusals: list[str] = []
    for reader in other_readers(paths, report=report and whole):
        try:
            reader()
        except SearchError as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals), refusals
    if not kind.startswith("forge"):
        check_prefix(paths, original, answer)
    check_repair(paths, data, whole=whole)
    return "answered" if whole else "refused"


def check_prefix(paths: StudyPaths, original: list[bytes], answer: str | None) -> None:
    """Assert that the study is one of the first lines of the undamaged journal, if it can be read."""
    if answer is None:
        return
    read = [entry.record for entry in journal.read(paths.journal)]
    assert read == [journal.parse_line(line)[0] for line in original[: len(read)]]
    undamaged = StudyPaths.of("undamaged", "t")
    undamaged.folder.mkdir(parents=True)
    undamaged.journal.write_bytes(b"".join(original[: len(read)]))
    assert checked(["trials", "t", "--json", "--runs", "undamaged"]) == answer


def check_repair(paths: StudyPaths, data: bytes, *, whole: bool) -> None:
    """Assert that a repair keeps all that precedes the damage, and nothing else, and that the rest can be read."""
    code, out, err = run_command(["repair", "t"])
    left = {item.name for item in paths.folder.iterdir()} - {"lock", "report.html", "search.log"}
    if code == 0 and "not damaged" in out:
        assert (paths.journal.read_bytes(), left) == (data, {"journal.jsonl"})
        return
    if code:
        assert err.startswith("search: "), err
        assert len(err.splitlines()) == 1
        assert (paths.journal.read_bytes(), left) == (data, {"journal.jsonl"})
        return
    assert not whole, "a journal that can be read was repaired"
    assert left == {"journal.jsonl", "journal.jsonl.damaged-1"}
    assert (paths.folder / "journal.jsonl.damaged-1").read_bytes() == data
    kept = paths.journal.read_bytes()
    assert data.startswith(kept)
    assert checked(["status", "t"])
    with suppress(SearchError):  # a forged option that no back end takes
        resume_without_training(paths)
    assert run_command(["repair", "t"])[1].endswith("nothing was changed\n")


# Forks ----------------------------------------------------------------------------------------------------------------


def prepare(lines: list[bytes]) -> None:
    """Read the undamaged journal in every way: a fork has then imported all that it needs."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        assert read_in_every_way(lines, b"".join(lines), "none", True) == "answered"
    gc.collect()
    gc.freeze()


class Fork:
    """A fork that does `work` in `folder`."""

    def __init__(self, work: Callable[[], str], folder: Path) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            word = ""
            try:
                os.close(reader)
                used = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
                resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os.chdir(folder)
                word = work()
            except BaseException:
                word = "FAILED: " + traceback.format_exc()
            finally:
                os.write(writer, word.encode(errors="replace")[-60_000:])
                os._exit(0)
        os.close(writer)
        self._reader = reader

    def result(self) -> str:
        """Wait for the word that the work returns, or its failure, which begins with "FAILED"."""
        with open(self._reader, "rb") as pipe:
            word = pipe.read().decode(errors="replace")
        _, status = os.waitpid(self.pid, 0)
        return word or f"FAILED: {signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status}"


def make_damage(lines: list[bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return the kind of a damage, and the damaged journal."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice(KINDS)
    return kind, DAMAGES[kind](lines, rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="of the one damage to repeat")
    given = parser.parse_args()
    lines = given.journal.read_bytes().splitlines(keepends=True)
    prepare(lines)
    began, words, failed = time.monotonic(), collections.Counter[str](), 0
    print(f"seed {given.seed}, {given.count} damages of {given.journal}, {len(lines)} lines", flush=True)
    running: collections.deque[tuple[int, str, Path, Fork]] = collections.deque()
    numbers = list(range(given.count)) if given.number is None else [given.number]
    while numbers or running:
        if numbers and len(running) < FORKS:
            number = numbers.pop(0)
            kind, data = make_damage(lines, given.seed, number)
            folder = Path(tempfile.mkdtemp())
            report = number % 8 == 0 or given.number is not None
            running.append((number, kind, folder, Fork(partial(read_in_every_way, lines, data, kind, report), folder)))
            continue
        number, kind, folder, fork = running.popleft()
        word = fork.result()
        if word.startswith("FAILED"):
            failed += 1
            print(f"--seed {given.seed} --number {number} ({kind}) in {folder}: {word}", flush=True)
        else:
            words[f"{kind}: {word}"] += 1
            shutil.rmtree(folder)
    print(f"{failed} failed, {time.monotonic() - began:.0f} s; {dict(sorted(words.items()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
