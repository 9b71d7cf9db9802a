"""Every view of every sample decoded, as encoding would: what is damaged in the middle is found early."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finetrainers.data.order.jobs import Failure, LatentsJob
from finetrainers.encoding.decoding import clip_of
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
    clip = clip_of(job)
    return clip.reason if isinstance(clip, Failure) else None
