"""What is known of media without decoding them: lengths, sizes, what buckets make of them, what they take in the cache.

Shape letters: N items of a data set, S samples.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finetrainers.config import Bucket
from finetrainers.data.catalog.catalog import Catalog, Dataset
from finetrainers.data.catalog.crops import cropped_shares
from finetrainers.data.catalog.occupancy import occupancy
from finetrainers.data.catalog.probe import Facts, probe_all
from finetrainers.data.streams import MEDIA
from finetrainers.encoding.budget import Budget
from finetrainers.training.prepared import Prepared

NUM_EXAMPLES, NUM_VALUES = 5, 8
"""Media that are named of each kind, and values of each distribution."""
GB = 10**9
Known = Mapping[int, Facts]
"""What each item [N] of a data set is, by the data set's identity."""


def catalogs(prepared: Prepared) -> list[Catalog]:
    """All that is trained on and held out."""
    return [plan.catalog for plan in prepared.plans]


def probe_again(prepared: Prepared, workers: int) -> Known:
    """Recall what planning has found out; the memo knows all of it, but for what cannot be used."""
    known: dict[int, Facts] = {}
    by_table: dict[int, Facts] = {}
    for data in (data for catalog in catalogs(prepared) for data in catalog.sets):
        if id(data.table) not in by_table:
            media, memo = data.table[MEDIA.name], prepared.encoder.memo
            by_table[id(data.table)] = probe_all(media, memo, workers, lambda _: None)[0]
        known[id(data)] = by_table[id(data.table)]
    return known


def about_sets(prepared: Prepared, facts: Known) -> list[dict[str, Any]]:
    """Tell how each data set that is trained on is laid out, by what that was found, and count what is in it."""
    told = []
    for data in prepared.plan.catalog.sets:
        used = np.unique(data.item)
        is_clip = facts[id(data)]["num_frames"][used] > 1
        told.append(
            {
                "path": data.config.path,
                "layout": data.layout,
                "why": data.why,
                "passed_over": dict(data.passed_over),
                "items": len(used),
                "clips": int(is_clip.sum()),
                "stills": int((~is_clip).sum()),
                "samples": len(data.item),
                "captions": int(data.num_captions[used].sum()),
                "views": data.config.num_views,
                "bad": len({problem.path for problem in data.problems}),
                "unlisted": data.unlisted,
            }
        )
    return told


def about_media(catalog: Catalog, facts: Known) -> dict[str, Any]:
    """Tell lengths, frame rates, sizes and proportions of what is trained on."""
    used = np.concatenate([facts[id(data)][np.unique(data.item)] for data in catalog.sets])
    clips = used[used["num_frames"] > 1]
    sizes = Counter(zip(used["width"].tolist(), used["height"].tolist(), strict=True))
    aspects = Counter(np.round(used["width"] / np.maximum(used["height"], 1), 2).tolist())
    rates = Counter(np.round(clips["fps"], 2).tolist())
    return {
        "seconds": spread(clips["seconds"]) | {"total": round(float(clips["seconds"].sum()), 2)} if len(clips) else None,
        "frames": spread(clips["num_frames"]) if len(clips) else None,
        "fps": _most(rates, "fps"),
        "sizes": [{"size": list(row["size"]), "count": row["count"]} for row in _most(sizes, "size")],
        "aspects": _most(aspects, "aspect"),
    }


def about_buckets(prepared: Prepared, facts: Known) -> list[dict[str, Any]]:
    """Tell for each bucket how many samples it has, what of their pixels is cut off, and how far they are enlarged."""
    catalog = prepared.plan.catalog
    held_out = None if prepared.held_out_plan is None else prepared.held_out_plan.catalog
    rows = [dict(row) for row in occupancy(catalog, held_out, [job.bucket for job in prepared.held_out])]
    numbers = {tuple(bucket): number for number, bucket in enumerate(catalog.buckets)}
    for row in rows:
        number = numbers.get(tuple(row["size"]))
        parts = [_fitted(data, facts[id(data)], number, tuple(row["size"])) for data in catalog.sets]
        cut, scale = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        mean, most = row.pop("cropped", None), row.pop("most_cropped", None)  # as a run, a check and a report have them
        row["cropped"] = {**spread(cut), "mean": mean, "max": most} if len(cut) else None
        row["upscaled"] = int((scale > 1).sum())
        row["largest_scale"] = round(float(scale.max()), 3) if len(scale) else None
    return rows


def _fitted(
    data: Dataset, facts: Facts, number: int | None, bucket: Bucket
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Part of the pixels [S] of each sample in a bucket that is cut off, and the factor [S] that it is scaled by."""
    own = facts[data.item[data.bucket == number]]
    scale = np.maximum(bucket[1] / np.maximum(own["height"], 1), bucket[2] / np.maximum(own["width"], 1))
    if data.config.resize == "stretch":
        return np.zeros(len(own)), scale
    return cropped_shares(own["height"], own["width"], *bucket[1:]), scale


def problems_of(prepared: Prepared) -> list[dict[str, Any]]:
    """Gather bad samples by data set and by reason, numbers aside; the most frequent first."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for data in (data for catalog in catalogs(prepared) for data in catalog.sets):
        for problem in dict.fromkeys(data.problems):
            kind = data.config.path, re.sub(r"[0-9.]+", "#", problem.reason.replace(problem.path, ""))
            files = found.setdefault(kind, [])
            if (problem.path, problem.reason) not in files[:NUM_EXAMPLES]:
                files.append((problem.path, problem.reason))
    rows = [
        {
            "data": path,
            "reason": files[0][1],
            "count": len(dict.fromkeys(files)),
            "paths": [name for name, _ in files[:NUM_EXAMPLES]],
        }
        for (path, _), files in found.items()
    ]
    return sorted(rows, key=lambda row: -int(row["count"]))


def cache_gb(prepared: Prepared) -> dict[str, float | None]:
    """Tell the size of all latents that the cache will hold, in GB; None where only an encoded one could tell."""
    if prepared.encoder.config.encode == "on_the_fly":
        return {"latents_gb": 0.0}
    budget, total = Budget(prepared.encoder), 0
    if prepared.model.takes_image:
        return {"latents_gb": None}
    for plan in prepared.plans:
        catalog = plan.catalog
        first = {int(bucket): int(row) for bucket, row in zip(*_first_samples(catalog), strict=True)}
        counts: Counter[int] = Counter()
        for data in catalog.sets:
            numbers, per = np.unique(data.bucket, return_counts=True)
            counts.update({int(n): int(c) * data.config.num_views for n, c in zip(numbers, per, strict=True)})
        for bucket, count in counts.items():
            job = plan.job(first[bucket], 0, view=0, caption=0)
            total += count * sum(budget.latents_bytes(job, item) for item in set(job.media.values()))
    return {"latents_gb": round(total / GB, 6)}


def _first_samples(catalog: Catalog) -> tuple[Sequence[int], Sequence[int]]:
    buckets = np.concatenate([data.bucket for data in catalog.sets])
    numbers, first = np.unique(buckets, return_index=True)
    return numbers.tolist(), first.tolist()


def spread(values: npt.NDArray[Any]) -> dict[str, float]:
    """Smallest, middle and largest value."""
    low, middle, high = (round(float(value), 3) for value in np.quantile(values, (0, 0.5, 1)))
    return {"min": low, "median": middle, "max": high}


def _most(counts: Counter[Any], name: str) -> list[dict[str, Any]]:
    """The most frequent values."""
    return [{name: value, "count": count} for value, count in counts.most_common(NUM_VALUES)]
