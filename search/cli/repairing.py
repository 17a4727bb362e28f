"""The command `repair`."""

from __future__ import annotations

import shlex

from search.cli.arguments import Runs, StudyName, TakeOver
from search.cli.output import out
from search.cli.selection import find_name
from search.study.paths import find_study
from search.wording import pluralize


def repair_command(name: StudyName, take_over: TakeOver = False, runs: Runs = "runs") -> None:
    """Repair a damaged journal: keep the lines before the damage, and the old file beside it."""
    from search.display.report import command_line
    from search.study.repair import repair_journal

    paths = find_study(find_name(name, runs), runs)
    repair = repair_journal(paths, take_over=take_over)
    study = paths.folder.name
    if repair is None:
        line = f"the journal of study {study} is not damaged: nothing was changed"
    else:
        kept, lost = repair.kept, repair.lost
        line = (
            f"study {study} keeps {pluralize(kept.lines, 'line')} of its journal, with "
            f"{pluralize(kept.trials, 'trial')} and {pluralize(kept.epochs, 'epoch')}; lost are "
            f"{pluralize(lost.lines, 'line')}, with {pluralize(lost.trials, 'trial')} and "
            f"{pluralize(lost.epochs, 'epoch')} that can be read: the old file is {repair.old}. Go on with: "
            + command_line(f"resume {shlex.quote(study)}", paths.folder.parent)
        )
    out.print(line, markup=False, soft_wrap=True)
