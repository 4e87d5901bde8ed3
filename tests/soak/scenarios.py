"""All scenarios, in the order of a round, and the rows of the table."""

from soak import machine, others, pairs, training

EVERY = {
    "training.kills": training.kills,
    "machine.signals": machine.signals,
    "machine.full_disk": machine.full_disk,
    "pairs.kills": pairs.kills,
    "others.prepare": others.prepare,
    "others.convert_out": others.convert_out,
    "others.convert_in": others.convert_in,
    "machine.clock": machine.clock,
    "machine.read_only": machine.read_only,
    "machine.disk_away": machine.disk_away,
    "machine.images_away": machine.images_away,
    "machine.file_handles": machine.file_handles,
    "machine.memory": machine.memory,
    "pairs.stops": pairs.stops,
    "training.more_kills": training.kills,
    "pairs.stops_for_good": pairs.stops_for_good,
    "pairs.signals": pairs.signals,
    "others.report": others.report,
}

ROWS = (
    *(f"kill −9, {phase}" for phase in training.PHASES),
    *("kill −9 of one of two processes", "kill −9 of both of two processes"),
    *(f"kill −9 of {name}" for name in others.NAMES),
    *pairs.ROWS,
    *machine.ROWS,
)
