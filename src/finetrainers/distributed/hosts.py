"""Lists of hosts and of tasks as Slurm writes them, read without its programs."""

import re


def expand_hosts(text: str) -> list[str]:
    """List the hosts of an expression such as ``node[01-03,07],login``, in its order."""
    return [host for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text) for host in _expand(part)]


def _expand(part: str) -> list[str]:
    """Write out the first bracket of one expression, and all that follow it."""
    before, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    ranges, _, after = rest.partition("]")
    ends = _expand(after)
    return [f"{before}{number}{end}" for own in ranges.split(",") for number in _numbers(own) for end in ends]


def _numbers(text: str) -> list[str]:
    """Write out ``01-03``, zeros in front included."""
    first, dash, last = text.partition("-")
    if not dash:
        return [text]
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def expand_tasks(text: str) -> list[int]:
    """List the number of tasks of each host, from an expression such as ``4(x2),3``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
