"""Every view of every sample decoded, as encoding would: what is damaged in the middle is found early."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finetrainers.data.media.files import decode
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.order.jobs import LatentsJob
from finetrainers.errors import DataError
from finetrainers.training.prepared import Prepared


def decode_all(prepared: Prepared, *, workers: int, say: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Decode all that the run can ask for, each view once; name what fails, with the reason."""
    jobs: dict[str, LatentsJob] = {}
    sets: dict[str, str] = {}
    for plan in prepared.plans:
        for sample in range(plan.catalog.num_samples):
            data = plan.catalog.locate(sample)[0].config
            for view in range(data.num_views):
                own = {job.key: job for job in plan.media_jobs(sample, view).values()}
                jobs |= own
                sets |= dict.fromkeys(own, data.path)
    failed: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (job, reason) in enumerate(zip(jobs.values(), pool.map(_fails, jobs.values()), strict=True), start=1):
            if reason is not None:
                failed[job.path] = {"data": sets[job.key], "path": job.path, "reason": reason}
            say("decode", done, len(jobs))
    return {"views": len(jobs), "failed": list(failed.values())}


def _fails(job: LatentsJob) -> str | None:
    try:
        decode(job.path, job.view)
    except DataError as error:
        return str(error).removeprefix(f"{job.path}: ")
    except OSError as error:
        return why_unreadable(error)
    return None
