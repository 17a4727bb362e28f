"""The command `devices`."""

from __future__ import annotations

from typing import Any

from search.cli.arguments import Json, takes_options
from search.cli.output import out, print_json, tell
from search.errors import OptionError


@takes_options("gpus", "workers", "gpus_per_trial", "logical_devices", "executor", "ray_address", "keras_backend")
def devices_command(*, as_json: Json = False, given: dict[str, Any]) -> None:
    """Show the GPUs, their use by others, and the slots that a search would have."""
    from search.devices.plan import error_of, notes_of
    from search.display import devices_view
    from search.driver.devices import plan_devices

    plans = plan_devices(given)
    notes, error = notes_of(plans), error_of(plans)
    if as_json:
        print_json(devices_view.devices_fields(plans, [*notes, *([error] if error else [])]))
    else:
        out.print(devices_view.devices_tables(plans))
        for line in ("", *notes) if notes else ():
            tell(line)
    if error:
        raise OptionError(error)
