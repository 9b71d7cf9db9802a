"""From pydantic's errors to one readable line for each wrong key."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from finetrainers.config.about_buckets import about_buckets, place_of_buckets
from finetrainers.config.base import RefusedKeyError, Section
from finetrainers.config.conditioning import FORMS
from finetrainers.config.moved import about_moved
from finetrainers.config.reference import general_name, kinds_of, sections_at
from finetrainers.config.run import Config
from finetrainers.config.synonyms import about_synonym, synonym_of

Location = tuple[str | int, ...]
"""Path of a key: ("data", 0, "buckets")."""
OWN_WORDS = {"a valid array": "a list", "an object": "keys and values"}
"""Words of JSON, by those of the YAML that most configurations are written in."""


def describe(errors: list[Mapping[str, Any]], tree: Mapping[str, Any], root: type[Section] = Config) -> list[str]:
    """One line for each wrong key; what is only wrong because something inside it is, is left out."""
    found: dict[Location, list[Mapping[str, Any]]] = {}
    for error in errors:
        place = _real_location(error["loc"], tree)
        whole = place_of_buckets(place)
        is_slip = whole is not None and about_buckets(_value_at(whole, tree)) is not None
        found.setdefault(whole if whole is not None and is_slip else place, []).append(error)
    innermost = {
        place: wrong
        for place, wrong in found.items()
        if not any(len(other) > len(place) and other[: len(place)] == place for other in found)
    }
    unknown = [place for place, wrong in innermost.items() if wrong[0]["type"] == "extra_forbidden"]
    misspelt = {".".join(map(str, (*place[:-1], name))) for place in unknown for name in _nearest(place, root)}
    synonyms = {name for place in unknown if root is Config and (name := synonym_of(place))}
    said = misspelt | synonyms | {name.rpartition(".")[0] for name in synonyms}
    return sorted(
        _line(place, wrong, tree, root)
        for place, wrong in innermost.items()
        if wrong[0]["type"] != "missing" or ".".join(map(str, place)) not in said  # the line of the other key says it all
    )


def _line(place: Location, errors: Sequence[Mapping[str, Any]], tree: Mapping[str, Any], root: type[Section]) -> str:
    """Describe one wrong key; several errors are those of the members of a union, any of which would do."""
    where = ".".join(map(str, place))
    error = next((own for own in errors if own["type"] == "value_error"), errors[0])  # all else of that member was right
    slip = about_buckets(_value_at(place, tree)) if place_of_buckets(place) == place else None
    if slip is not None:
        return f"{where}: {slip}"
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: {about_moved(place, error['input'], tree) or _unknown(place, error['input'], root)}"
        case "missing":
            return f"{where}: is required and not given"
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
            is_of_key = isinstance(error["ctx"]["error"], RefusedKeyError)  # whose message begins with the key
            return f"{where}{'.' if is_of_key else ': '}{message}" if where else message
        case "union_tag_invalid":
            tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"]
            return f"{where}.kind: there is no kind {tag!r}; known: {known}"
        case "union_tag_not_found":
            return f"{where}: Input should be keys and values, such as kind: lora, not {error['input']!r}"
    rules = [OWN_WORDS.get(rule, rule) for rule in (e["msg"].removeprefix("Input should be ") for e in errors)]
    prefix = "Input should be " if error["msg"].startswith("Input should be ") else ""
    shown = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
    if error["type"] in ("string_type", "path_type") and isinstance(error["input"], int | float):
        shown += "; in quotes it is text"
    if error["type"] in ("string_type", "path_type") and error["input"] is None:
        shown += "; remove it to use the default, or write 'null' in quotes for the text"
    if error["type"] in ("tuple_type", "list_type") and len(errors) == 1 and isinstance(error["input"], str):
        shown += f"; write a list: [{error['input']!r}]"
    return f"{where}: {prefix}{', or '.join(dict.fromkeys(rules))}{shown}"


def _unknown(place: Location, value: Any, root: type[Section]) -> str:
    *parents, leaf = place
    known = sections_at(parents, root)
    if kinds_of(general_name([*place, "kind"]), root):  # an index, where a list could be
        return f"{'.'.join(map(str, parents))} is one section here; name its key without an index, or make it a list"
    if leaf in known:
        return f"does not exist with this kind of {'.'.join(map(str, parents))}; remove it or change the kind"
    synonym = about_synonym(place, value, root)
    if synonym is not None:
        return f"there is no such key; {synonym}"
    close = _nearest(place, root)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return f"there is no such key; {hint}"


def _nearest(place: Location, root: type[Section]) -> list[str]:
    *parents, leaf = place
    return get_close_matches(str(leaf), sections_at(parents, root), n=1)


def _value_at(place: Location, tree: Mapping[str, Any]) -> Any:
    """Find what stands at a place; None where nothing does."""
    node: Any = tree
    for part in place:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _real_location(location: Sequence[str | int], tree: Mapping[str, Any]) -> Location:
    """Drop what pydantic puts into a location that no user wrote: names of union members."""
    real: list[str | int] = []
    node: Any = tree
    for i, part in enumerate(location):
        is_mapping, is_list = isinstance(node, dict), isinstance(node, list)
        if (is_mapping and part in node) or (is_list and isinstance(part, int) and part < len(node)):
            node = node[part]
        elif i < len(location) - 1 or not (is_mapping or is_list) or _is_union_member(part):
            continue
        real.append(part)
    return tuple(real)


def _is_union_member(part: str | int) -> bool:
    """Whether pydantic names a member of a union so: a class, a plain type, a kind, or one with brackets."""
    classes = Section.__subclasses__()
    kinds = [kind for c in classes if "kind" in c.model_fields for kind in get_args(c.model_fields["kind"].annotation)]
    names = {
        "str",
        "int",
        "float",
        "bool",
        "constrained-int",
        "constrained-float",
        *FORMS,
        *kinds,
        *(c.__name__ for c in classes),
    }
    return isinstance(part, str) and ("[" in part or part in names)
