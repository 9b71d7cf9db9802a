"""What a start of a run keeps of itself, for reports and comparisons."""

from finetrainers.training.data_sheet import is_written, write_data_sheet
from finetrainers.training.lock import write_lock
from finetrainers.training.prepared import Prepared
from finetrainers.training.session import Session


def record_start(session: Session, prepared: Prepared, *, resumed: int | None) -> None:
    """Write lock.json, and what the report shows of the data."""
    try:
        write_lock(session, prepared, resumed=resumed)
        directory = session.config.output_dir
        if session.config.track.report and not (resumed is not None and is_written(directory, prepared)):
            write_data_sheet(directory, prepared)
    except Exception as error:  # noqa: BLE001 - whatever it is, training does not need it
        session.warn(f"what the report shows of this start cannot be written ({type(error).__name__}: {error})")
