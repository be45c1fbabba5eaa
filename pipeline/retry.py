"""Tries again what ended in a FailureRecord.

The parts are rewritten in their places: whatever kills this, each of them holds either its old records or its new ones.
"""

import os

from crashbeam.pipeline.manifest import is_failure, read_records
from crashbeam.pipeline.run_folder import RunFolder
from crashbeam.transforms.part_file import write_part
from crashbeam.workers.pool import PoolSettings, record_lines


def retry_failures(folder: RunFolder, settings: PoolSettings, isolated: bool) -> int:
    """Analyses every input again whose record is a failure; how many that were. Raises OutputError, ChildStartError."""
    inputs = folder.inputs
    tried = 0
    for part in folder.standing_parts():
        lines = read_records(os.path.join(folder.parts, part.name)).splitlines(keepends=True)
        places = [place for place, line in enumerate(lines) if is_failure(line)]
        if not places:
            continue
        folder.remove_manifest()
        again = [inputs[part.first + place] for place in places]
        new = [line for line in record_lines(again, settings, isolated) if line is not None]
        for place, line in zip(places, new, strict=True):
            lines[place] = line
        write_part(folder.parts, part.first, lines)
        tried += len(places)
    return tried
