"""The samples of a calibration set: read, checked, and turned into what the model receives."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import CalibrationError
from edgeprune.files import sha256_of

if TYPE_CHECKING:
    from edgeprune.profiles import Calibration

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationData:
    """The two halves of a calibration set; no sample is in both.

    Attributes:
        fit: one array per model input, float32 (or int64 for ids), shape (n, …): what choosing
            and compensating may look at.
        holdout: the same for measuring and certifying, shape (m, …); never used to prune.
        fit_labels: int64 (n,), the class of each sample, where known.
        holdout_labels: int64 (m,).
        fit_weights: float64 (n,), not negative: how much each sample of `fit` stands for; None if all alike.
    """

    fit: tuple[Array, ...]
    holdout: tuple[Array, ...]
    fit_labels: npt.NDArray[np.int64] | None = None
    holdout_labels: npt.NDArray[np.int64] | None = None
    fit_weights: npt.NDArray[np.float64] | None = None

    def repeated(self, count: int) -> CalibrationData:
        """The same set with every sample of `fit` as often as its weight asks for.

        About `count` samples in all (by largest remainders), so that whatever averages over samples averages
        with their weights. A set without weights is returned as it is.
        """
        if self.fit_weights is None:
            return self
        share = self.fit_weights / self.fit_weights.sum() * count
        times = np.floor(share).astype(np.int64)
        behind = np.argsort(times - share, kind="stable")[: count - int(times.sum())]
        times[behind] += 1
        labels = None if self.fit_labels is None else np.repeat(self.fit_labels, times)
        fit = tuple(np.repeat(array, times, axis=0) for array in self.fit)
        return CalibrationData(fit, self.holdout, labels, self.holdout_labels)


def load_samples(calibration: Calibration) -> CalibrationData:
    """Read and check the samples of a set.

    Raises:
        CalibrationError: the file is missing, damaged or not the one that was described, or its
            samples are empty, not finite, outside the domain, or in both halves.
    """
    arrays = _halves(calibration, _arrays(calibration))
    fit = _half(calibration, arrays, "fit")
    holdout = _half(calibration, arrays, "holdout")
    for left, right in zip(fit, holdout, strict=True):
        if left.shape[1:] != right.shape[1:]:
            raise CalibrationError(
                f"{calibration.file}: samples of fit have shape {left.shape[1:]}, those of holdout "
                f"{right.shape[1:]}; store both alike."
            )
    _check_disjoint(calibration, fit, holdout)
    return CalibrationData(
        fit=fit,
        holdout=holdout,
        fit_labels=_labels(calibration, arrays, "fit", len(fit[0])),
        holdout_labels=_labels(calibration, arrays, "holdout", len(holdout[0])),
        fit_weights=_weights(calibration, arrays.get("fit_weights"), len(fit[0])),
    )


def _weights(calibration: Calibration, weights: Array | None, count: int) -> npt.NDArray[np.float64] | None:
    if weights is None:
        return None
    sound = weights.shape == (count,) and weights.dtype.kind == "f" and np.isfinite(weights).all()
    if not sound or (weights < 0).any() or not weights.sum() > 0:
        raise CalibrationError(
            f"{calibration.file}: fit_weights must be {count} numbers, none negative and not all 0; write "
            "the set again with `edgeprune calibrate`."
        )
    return weights.astype(np.float64)


def _arrays(calibration: Calibration) -> dict[str, Array]:
    """What the file holds, by name; a bare `.npy` is the array `x`."""
    path = calibration.file
    if not path.is_file():
        raise CalibrationError(f"{path}: the samples of '{calibration.name}' are missing; restore the file.")
    if calibration.data.sha256 and (digest := sha256_of(path)) != calibration.data.sha256:
        raise CalibrationError(
            f"{path}: has SHA-256 {digest[:12]}…, its description says {calibration.data.sha256[:12]}…; "
            "restore the file, or correct sha256 if the change was meant."
        )
    try:
        with path.open("rb") as stream:  # numpy would leave a damaged file open
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"x": content}
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(
            f"{path}: is damaged or no plain numpy file ({error}); write it again with numpy.savez."
        ) from error


def _halves(calibration: Calibration, arrays: dict[str, Array]) -> dict[str, Array]:
    """Split a lone array `x` (and its `labels`) in the middle, in order."""
    if any(name.partition(".")[0] in ("fit", "holdout") for name in arrays) or "x" not in arrays:
        return arrays
    count = len(arrays["x"]) if arrays["x"].ndim else 0
    if count < 2:
        raise CalibrationError(
            f"{calibration.file}: holds {count} samples; at least 2 are needed, to fit and to hold out."
        )
    result = {"fit": arrays["x"][: count // 2], "holdout": arrays["x"][count // 2 :]}
    if (labels := arrays.get("labels")) is not None:
        result |= {"fit_labels": labels[: count // 2], "holdout_labels": labels[count // 2 :]}
    return result


def _half(calibration: Calibration, arrays: dict[str, Array], half: str) -> tuple[Array, ...]:
    """The arrays of one half in the order of the model's inputs, normalised and checked."""
    inputs = calibration.data.inputs
    names = [half] if len(inputs) < 2 else [f"{half}.{name}" for name in inputs]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise CalibrationError(
            f"{calibration.file}: has no array '{missing[0]}' (it has {', '.join(sorted(arrays))}); "
            "store 'fit' and 'holdout' (or 'fit.INPUT' and 'holdout.INPUT'), or one array 'x'."
        )
    result = tuple(_normalised(calibration, name, arrays[name]) for name in names)
    if len({len(array) for array in result}) > 1:
        counts = ", ".join(f"{name}: {len(a)}" for name, a in zip(names, result, strict=True))
        raise CalibrationError(
            f"{calibration.file}: its inputs differ in numbers of samples ({counts}); store as many of each."
        )
    return result


def _normalised(calibration: Calibration, name: str, stored: Array) -> Array:
    """What the model receives: stored × scale + offset in float64, then the model's dtype."""
    where, data = f"{calibration.file}: {name}", calibration.data
    if stored.ndim == 0 or stored.size == 0:
        raise CalibrationError(f"{where} holds no samples (shape {stored.shape}); at least one is needed.")
    if stored.dtype.kind not in ("iub" if data.dtype == "int64" else "iufb"):
        raise CalibrationError(f"{where} is stored as {stored.dtype}, which cannot become {data.dtype}.")
    if data.shape:
        if stored[0].size != np.prod(data.shape):
            raise CalibrationError(
                f"{where} has samples of shape {stored.shape[1:]} ({stored[0].size} values); "
                f"its description says {list(data.shape)}."
            )
        stored = stored.reshape(len(stored), *data.shape)
    if data.dtype == "int64":
        return stored.astype(np.int64)
    with np.errstate(over="ignore"):  # what overflows is reported below
        result = (stored.astype(np.float64) * data.scale + data.offset).astype(np.float32)
    if bad := int((~np.isfinite(result)).sum()):
        raise CalibrationError(f"{where} has {bad} values that are not finite; remove those samples.")
    _check_domain(calibration, where, result)
    return result


def _check_domain(calibration: Calibration, where: str, samples: Array) -> None:
    """A plain box is held against the samples at once; other domains where they are made for a model."""
    box = calibration.domain
    if (
        box is None
        or not isinstance(box.low, float)
        or not isinstance(box.high, float)
        or box.mean is not None
    ):
        return
    low, high = float(samples.min()), float(samples.max())
    if low < np.float32(box.low) or high > np.float32(box.high):
        raise CalibrationError(
            f"{where} lies in [{low:g}, {high:g}], outside its own domain [{box.low:g}, {box.high:g}]; "
            "correct scale and offset, or widen [domain]."
        )


def _check_disjoint(calibration: Calibration, fit: tuple[Array, ...], holdout: tuple[Array, ...]) -> None:
    """A sample that was fitted to says nothing as a held-out one."""
    seen = set(digests(fit))
    shared = [i for i, digest in enumerate(digests(holdout)) if digest in seen]
    if shared:
        raise CalibrationError(
            f"{calibration.file}: {len(shared)} of {len(holdout[0])} held-out samples are also in fit "
            f"(the first is holdout[{shared[0]}]); remove them from one of the two."
        )


def digests(inputs: tuple[Array, ...]) -> list[bytes]:
    """One digest a sample, over all inputs. Adding 0 makes −0 and 0 the same sample."""
    rows = [np.ascontiguousarray(array + array.dtype.type(0)) for array in inputs]
    return [
        hashlib.blake2b(b"".join(array[i].tobytes() for array in rows), digest_size=16).digest()
        for i in range(len(rows[0]))
    ]


def _labels(
    calibration: Calibration, arrays: dict[str, Array], half: str, count: int
) -> npt.NDArray[np.int64] | None:
    labels = arrays.get(f"{half}_labels")
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise CalibrationError(
            f"{calibration.file}: {half}_labels is {labels.dtype} of shape {labels.shape}; "
            f"expected whole numbers of shape ({count},), one a sample."
        )
    return labels.astype(np.int64)
