"""The journal's formats: the steps that turn an older version's records into this version's.

Each line of a journal names its own format under `v` (a line of format 1 has none). So a study may begin in one format
and go on in another, and a reader may begin anywhere.

A change of `search.study.records` that another version would not understand, or would misunderstand, needs a new
format. Add 1 to `records.FORMAT`, add a function to `UPGRADES`, and keep a journal of the old format in
`tests/study/formats/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search.study.records import FORMAT

Json = dict[str, Any]

CHAINED = 4
"""The first format whose lines hold the checksum of the line before."""


def _from_1(data: Json) -> Json:
    """Upgrade to format 2: executions, a user's `fit`, the libraries of each run, samplers of Hyperband.

    New kinds: `learnt`, `tested`, `exported`.
    """
    match data["kind"]:
        case "era" if data["backend"] == "hyperband":
            return {**data, "options": {"sampler": "random", **data["options"]}}
        case "began":
            options = data["options"]
            # Only Optuna had a sampler then, though the option was written down for Hyperband, too.
            sampler = None if options.get("backend") == "hyperband" else options.get("sampler")
            return {"versions": {}, **data, "options": {**options, "sampler": sampler}}
        case "asked":
            return {"executions": 1, "given": {}, **data}
        case "built":
            return {"own_fit": False, **data}
        case "epoch_done":
            return {"trained": 1, **data}
    return data


def _from_2(data: Json) -> Json:
    """Upgrade to format 3: a segment's outcomes `no_memory` and `no_space`; the kind `expired`."""
    return data


_KINDS_OF_3 = {
    "era": "backend_changed",
    "learnt": "trial_imported",
    "began": "search_started",
    "asked": "segment_requested",
    "valued": "parameter_set",
    "started": "segment_started",
    "ended": "segment_ended",
    "told": "result_told",
    "expired": "timed_out",
    "finished": "search_ended",
}


def _from_3(data: Json) -> Json:
    """Upgrade to format 4: new names of kinds and fields, a list of objectives, `prev` in each line."""
    kind = data["kind"]
    data = {**data, "kind": _KINDS_OF_3.get(kind, kind)}
    match kind:
        case "header":
            data["objectives"] = [[data.pop("objective"), data.pop("direction")]]
        case "asked":
            data["initial_values"] = data.pop("given", {})
        case "built":
            data["weight_count"] = data.pop("parameters")
        case "learnt" | "checkpointed":
            data["stopped_by_callback"] = data.pop("finished", False)
        case "ended" | "told" if data["outcome"] == "finished":
            data["outcome"] = "stopped_by_callback"
    return data


def _from_4(data: Json) -> Json:
    """Upgrade to format 5: a warning about the winner's model; a user's `fit` that is a black box; parents of trials.

    New: internals that are off; the kind `data_loaded`; a segment's outcomes `raised` and `fatal`, which older formats
    call `failed`.
    """
    match data["kind"]:
        case "built":
            return {"black_box": data["runner"] == "own fit: begins anew for each segment", **data}
        case "exported":
            return {"warning": "", **data}
        case "search_started":
            return {"internals_off": [], **data}
        case "segment_requested":
            return {"parent": None, "values": {}, **data}
        case "trial_imported":
            return {"begins_after": 0, **data}
    return data


def _from_5(data: Json) -> Json:
    """Upgrade to format 6: attributes of a suggestion; the size of a checkpoint; the seconds of a build.

    New kinds: `computed`, `checkpoint_dropped`.
    """
    match data["kind"]:
        case "segment_requested":
            return {"attributes": {}, **data}
        case "built":
            return {"seconds": 0.0, **data}
        case "checkpointed":
            return {"bytes": 0, **data}
    return data


def _from_6(data: Json) -> Json:
    """Upgrade to format 7: the peak of a segment's device memory."""
    return {"peak_device_memory": None, **data} if data["kind"] == "segment_ended" else data


def _from_7(data: Json) -> Json:
    """Upgrade to format 8: trials that are none of the back end's.

    New kinds: `configuration_added`, `trial_stop_requested`, `search_paused`, `search_continued`, `limits_changed`.
    """
    return {"extra": False, **data} if data["kind"] == "segment_requested" else data


UPGRADES: tuple[Callable[[Json], Json], ...] = (_from_1, _from_2, _from_3, _from_4, _from_5, _from_6, _from_7)
"""`UPGRADES[n - 1]` turns a record of format n into one of format n + 1, both as JSON objects."""


def upgrade(data: Json, format: int) -> Json:
    """Return a record of `format` (1 to `FORMAT`) as a record of `FORMAT`."""
    for step in UPGRADES[format - 1 :]:
        data = step(data)
    return data


def is_newer(format: int) -> bool:
    """Return whether only a newer version of search can read `format`."""
    return format > FORMAT
