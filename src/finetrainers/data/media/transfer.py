"""From the light that wide or HDR media stand for to eight bits of sRGB: curves, primaries and one fixed tone curve.

PQ and HLG are ITU-R BT.2100; the tone curve is the EETF of ITU-R BT.2390, 5.4.1, from a peak of 1000 cd/m2 to reference
white, 203 cd/m2 (BT.2408), which becomes 255. What a file states of its own peak is not read. Shape letters: as in view.py.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PEAK, WHITE = 1000.0, 203.0
"""cd/m2."""
PQ, HLG = 16, 18
"""Transfer characteristics by their numbers in ITU-T H.273, 8.2."""
BT709, BT2020, P3_DCI, P3_D65 = 1, 9, 11, 12
"""Primaries, H.273, 8.1; those of the DCI have another white, and are taken for those of displays."""
XY = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3_DCI: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    P3_D65: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Chromaticities (x, y) of red, green and blue."""
D65 = (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""From XYZ to responses of cones, in which white is adapted."""
LEVELS = 1 << 16
"""Codes of 16 bits, which tables are indexed by."""
HLG_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)


class Colors(NamedTuple):
    """What a frame's codes stand for."""

    transfer: int
    """PQ, HLG, or any other for an ordinary curve."""
    primaries: int
    """One of XY."""


def colors_of(transfer: int, primaries: int) -> Colors | None:
    """Tell how to convert a frame, by what it states; None if it is ordinary video and stays as it is."""
    is_hdr = transfer in (PQ, HLG)
    known = primaries if primaries in XY else BT2020 if is_hdr else BT709
    return Colors(transfer, known) if is_hdr or known != BT709 else None


def to_srgb(codes: npt.NDArray[np.uint16], colors: Colors) -> npt.NDArray[np.uint8]:
    """Convert full-range codes [h, w, 3] of 16 bits."""
    if colors.transfer == PQ:
        light = _table(PQ)[codes] * _pq_gain()[codes.max(axis=2)][..., None]
    elif colors.transfer == HLG:
        scene = _table(HLG)[codes]
        shown = scene * (PEAK / WHITE * np.maximum(scene @ HLG_LUMA, 1e-6) ** 0.2)[..., None]  # the OOTF: gamma 1.2
        light = shown * _gain(shown.max(axis=2))[..., None]
    else:
        light = _table(0)[codes]
    light = light @ _matrix(colors.primaries)
    indices = np.rint(np.clip(light, 0, 1) * (LEVELS - 1)).astype(np.uint16)
    result: npt.NDArray[np.uint8] = _to_eight_bits()[indices]
    return result


@cache
def _table(transfer: int) -> Floats:
    """Light of each code: PQ in units of reference white, HLG of the scene in 0..1, ordinary curves as sRGB has it."""
    code = np.linspace(0, 1, LEVELS)
    if transfer == PQ:
        return (_pq_to_light(code) / WHITE).astype(np.float32)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    return srgb_to_light(code).astype(np.float32)


@cache
def _to_eight_bits() -> npt.NDArray[np.uint8]:
    """SRGB codes of light in 0..1."""
    eight: npt.NDArray[np.uint8] = np.rint(light_to_srgb(np.linspace(0, 1, LEVELS)) * 255).astype(np.uint8)
    return eight


def srgb_to_light(code: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Light in 0..1 of codes in 0..1, by the curve of sRGB (IEC 61966-2-1)."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def light_to_srgb(light: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Codes in 0..1 of light in 0..1, by the curve of sRGB."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _pq_to_light(code: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cd/m2 of codes in 0..1 (BT.2100, table 4)."""
    power = code ** (32 / 2523)
    light: npt.NDArray[np.float64] = 10000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        16384 / 2610
    )
    return light


def _light_to_pq(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    power = (np.maximum(light, 0) / 10000) ** (2610 / 16384)
    code: npt.NDArray[np.float64] = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)
    return code


def _mapped(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Roll light in cd/m2 off towards WHITE, which PEAK and all above it become; dark and middle tones stay as they are."""
    peak = float(_light_to_pq(np.array(PEAK)))
    white = float(_light_to_pq(np.array(WHITE))) / peak
    code = np.minimum(_light_to_pq(light) / peak, 1)
    knee = 1.5 * white - 0.5
    t = (code - knee) / (1 - knee)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    return _pq_to_light(np.where(code < knee, code, rolled) * peak)


@cache
def _pq_gain() -> Floats:
    """Factor of all three channels by the largest PQ code among them, so that hue is kept."""
    light = _pq_to_light(np.linspace(0, 1, LEVELS))
    return (_mapped(light) / np.maximum(light, 1e-6)).astype(np.float32)


@cache
def _gains() -> tuple[Floats, Floats]:
    light = np.linspace(0, PEAK, 4096)
    gain = _mapped(light) / np.maximum(light, 1e-6)
    gain[0] = 1
    return (light / WHITE).astype(np.float32), gain.astype(np.float32)


def _gain(light: Floats) -> Floats:
    """Factor by the largest channel [h, w], in units of reference white."""
    return np.interp(light, *_gains()).astype(np.float32)


@cache
def _matrix(primaries: int) -> Floats:
    """Matrix [3, 3] that row vectors of light are multiplied by, into the primaries of sRGB."""
    return matrix_to_srgb(XY[primaries], D65)


def matrix_to_srgb(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> Floats:
    """Matrix [3, 3] for row vectors of light of any primaries and white (x, y), which becomes that of sRGB (Bradford).

    Raises:
        LinAlgError, ZeroDivisionError: If these are no primaries.
    """
    to_xyz = _to_xyz(primaries, white)
    if white != D65:
        cones = BRADFORD @ to_xyz.sum(axis=1), BRADFORD @ _to_xyz(XY[BT709], D65).sum(axis=1)
        to_xyz = np.linalg.inv(BRADFORD) @ np.diag(cones[1] / cones[0]) @ BRADFORD @ to_xyz
    return (np.linalg.inv(_to_xyz(XY[BT709], D65)) @ to_xyz).T.astype(np.float32)


def _to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> npt.NDArray[np.float64]:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    x, y = white
    scaled: npt.NDArray[np.float64] = columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])
    return scaled
