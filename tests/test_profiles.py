from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import CalibrationError, ConfigError
from edgeprune.profiles import (
    find_calibration,
    find_target,
    list_calibrations,
    list_targets,
    shipped_folder,
)


def target_file(folder: Path, text: str, name: str = "board") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# ------------------------------------------------------------------------------------ targets


def test_an_empty_file_is_the_plain_cpu(tmp_path: Path) -> None:
    target = find_target(target_file(tmp_path, ""))
    assert target.name == "board"
    assert target.runtime.provider == "CPUExecutionProvider"
    assert not target.runtime.allow_fallback


def test_extends_lays_tables_over_each_other(tmp_path: Path) -> None:
    target_file(tmp_path, "[threads]\nintra = 3\nspinning = true\n[limits]\np95_ms = 8", "below")
    target = find_target(target_file(tmp_path, 'extends = "below"\n[threads]\nintra = 1'))
    assert (target.threads.intra, target.threads.spinning) == (1, True)
    assert target.limits.p95_ms == 8.0
    assert target.name == "board"


def test_extends_finds_shipped_targets(tmp_path: Path) -> None:
    target = find_target(target_file(tmp_path, 'extends = "cpu-1t"'))
    assert target.threads.intra == 1


def test_a_ring_of_extends_is_refused(tmp_path: Path) -> None:
    path = target_file(tmp_path, 'extends = "other"')
    target_file(tmp_path, 'extends = "board"', "other")
    with pytest.raises(ConfigError, match=r"extends itself, through board\.toml → other\.toml"):
        find_target(path)


def test_extending_nothing_known_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"board\.toml: extends: there is no target 'cpi'; did you mean 'cpu"
    ):
        find_target(target_file(tmp_path, 'extends = "cpi"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[threads]\nintre = 1", r"threads: there is no field 'intre'; did you mean 'intra'\?"),
        ("thread = 1", r"board\.toml: there is no field 'thread'; did you mean 'threads'\?"),
        ('[threads]\nintra = "1"', r'threads: intra: expected a whole number, found "1" \(text\)'),
        ("[threads]\nintra = true", r"threads: intra: expected a whole number, found true"),
        ("[threads]\nintra = 1.5", r"threads: intra: expected a whole number, found 1\.5"),
        ("[threads]\nintra = -1", r"threads: intra and inter cannot be negative, not -1 and 1"),
        ("threads = 1", r"threads: expected a table, found 1"),
        ('precision = "fp8"', r'precision: expected one of "fp32", "tf32", "bf16", "fp16", found "fp8"'),
        ('[grid]\nconv = "all"', r'grid: conv: expected a whole number or one of "auto", found "all"'),
        ("[grid]\nconv = 0", r"grid: conv must be at least 1, not 0"),
        ("[measure]\nbudget_s = inf", r"measure: budget_s: expected a number, found inf"),
        ("[measure]\nbudget_s = 0", r"measure: budget_s must be positive, not 0"),
        ("[measure]\nlaunches_min = 1", r"an interval needs two launches"),
        ("[measure]\nlaunches_min = 30", r"not 30 and 24"),
        ("[measure]\nconfidence = 1", r"confidence must be in \[0\.5, 1\), not 1"),
        (
            "[limits]\nlatency_ratio = -1",
            r"limits: the limit latency_ratio must be positive and finite, not -1",
        ),
        ("[limits]\ntop1_agreement = 1.2", r"top1_agreement is a share and cannot exceed 1, not 1\.2"),
        ("[limits]\np99_ms = 1", r"there is no field 'p99_ms'; did you mean 'p95_ms'\?"),
        (
            "[runtime.options]\nx = [1]",
            r"options\.x: expected text, a number or true/false, found a list of 1",
        ),
        ('[runtime]\nprovider = "QNNExecutionProvider"', r'conv = "auto" reads this machine\'s CPU'),
        ("extends = 3", r"extends: expected the name of a target, found 3"),
        ('name = "other"', r"calls itself 'other'; it must be named like its file"),
        ("a = ", r"is not valid TOML"),
    ],
)
def test_a_malformed_target_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_target(target_file(tmp_path, text))
    assert "board.toml" in str(caught.value)


def test_options_become_text(tmp_path: Path) -> None:
    text = '[runtime]\nprovider = "P"\n[runtime.options]\na = true\nb = 2\nc = "x"\n[grid]\nconv = 4'
    assert find_target(target_file(tmp_path, text)).runtime.options == {"a": "1", "b": "2", "c": "x"}


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no target 'cqu'; did you mean 'cpu'\?"):
        find_target("cqu")
    with pytest.raises(ConfigError, match="there is no such file"):
        find_target(tmp_path / "board.toml")


def test_the_users_own_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets").mkdir()
    target_file(tmp_path / "targets", 'extends = "cpu"', "mine")
    monkeypatch.chdir(tmp_path)
    assert find_target("mine").grid.units == find_target("cpu").grid.units
    assert {"mine", "cpu"} <= {t.name for t in list_targets()}


def test_a_name_taken_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets").mkdir()
    monkeypatch.chdir(tmp_path)
    shipped = (shipped_folder("targets") / "cpu.toml").read_text(encoding="utf-8")
    target_file(tmp_path / "targets", shipped, "cpu")
    assert find_target("cpu").name == "cpu"  # the same content twice is no contradiction
    target_file(tmp_path / "targets", shipped + "\n# mine", "cpu")
    with pytest.raises(ConfigError, match="'cpu' is defined twice and differently"):
        find_target("cpu")


@pytest.mark.parametrize(
    ("flags", "multiple"),
    [("fpu avx avx2 avx512f avx512dq", 16), ("fpu avx avx2", 8), ("fpu sse2 avx", 4), ("", 4)],
)
def test_conv_multiple_follows_the_vector_width(tmp_path: Path, flags: str, multiple: int) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    assert find_target("cpu").conv_multiple(cpuinfo) == multiple
    assert find_target("cpu").conv_multiple(tmp_path / "missing") == 4
    fixed = find_target(target_file(tmp_path, "[grid]\nconv = 6"))
    assert fixed.conv_multiple(cpuinfo) == 6


def test_listing_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys; from edgeprune.profiles import list_targets, list_calibrations; "
        "list_targets(); list_calibrations(); "
        "sys.exit(' '.join({'numpy', 'torch', 'onnxruntime', 'scipy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------- calibration


def arrays(count: int = 4) -> dict[str, np.ndarray]:
    values = np.arange(count * 2 * 6, dtype=np.uint8).reshape(-1, 6)
    return {
        "fit": values[:count],
        "holdout": values[count:],
        "fit_labels": np.arange(count),
        "holdout_labels": np.arange(count),
    }


def calibration_file(folder: Path, content: dict[str, np.ndarray], data: str = "", rest: str = "") -> str:
    np.savez(folder / "set.npz", **content)
    path = folder / "set.toml"
    path.write_text(f'[data]\nfile = "set.npz"\n{data}\n{rest}', encoding="utf-8")
    return str(path)


def test_samples_are_normalised_and_shaped(tmp_path: Path) -> None:
    box = '[domain]\nkind = "box"\nlow = -1.0\nhigh = 1.0'
    path = calibration_file(tmp_path, arrays(), "shape = [2, 3]\nscale = 0.02\noffset = -0.5", box)
    calibration = find_calibration(path)
    data = calibration.load()
    assert calibration.domain is not None
    assert (calibration.domain.low, calibration.domain.high) == (-1.0, 1.0)
    assert data.fit[0].shape == (4, 2, 3)
    assert data.fit[0].dtype == np.float32
    np.testing.assert_array_equal(data.fit[0][0, 1], np.float32([3 * 0.02 - 0.5, 4 * 0.02 - 0.5, -0.4]))
    assert data.holdout_labels is not None
    assert data.holdout_labels.tolist() == [0, 1, 2, 3]


def test_several_inputs_come_in_order(tmp_path: Path) -> None:
    ids = np.arange(8).reshape(4, 2)
    content = {"fit.b": ids, "fit.a": ids + 10, "holdout.b": ids + 20, "holdout.a": ids + 30}
    data = find_calibration(
        calibration_file(tmp_path, content, 'inputs = ["a", "b"]\ndtype = "int64"')
    ).load()
    assert [int(array[0, 0]) for array in (*data.fit, *data.holdout)] == [10, 0, 30, 20]
    assert data.fit[0].dtype == np.int64
    assert data.fit_labels is None


def test_plain_files_are_split_in_the_middle(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float64).reshape(5, 1)
    np.save(tmp_path / "plain.npy", values)
    np.savez(tmp_path / "plain.npz", x=values, labels=np.arange(5))
    bare, archive = (find_calibration(tmp_path / f"plain{s}").load() for s in (".npy", ".npz"))
    assert bare.fit[0].ravel().tolist() == archive.fit[0].ravel().tolist() == [0, 1]
    assert bare.holdout[0].ravel().tolist() == [2, 3, 4]
    assert bare.fit_labels is None
    assert archive.holdout_labels is not None
    assert archive.holdout_labels.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": np.zeros((0, 6))}, r"fit holds no samples \(shape \(0, 6\)\)"),
        ({"fit": np.array([[np.nan, 1, 2, 3, 4, np.inf]])}, "fit has 2 values that are not finite"),
        ({"fit": np.array([["a"] * 6])}, "fit is stored as <U1, which cannot become float32"),
        ({"fit": np.full((4, 5), 200)}, r"fit has shape \(5,\)|samples of fit have shape \(5,\)"),
        ({"fit_labels": np.arange(3)}, r"fit_labels is int64 of shape \(3,\); expected whole numbers"),
        ({"fit_labels": np.zeros(4)}, r"fit_labels is float64 of shape \(4,\)"),
        (
            {"fit": arrays()["holdout"][1:3]},
            r"2 of 4 held-out samples are also in fit .the first is holdout\[1\]",
        ),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    content = {k: v for k, v in arrays().items() if not (k == "fit_labels" and "fit" in change)} | change
    with pytest.raises(CalibrationError, match=message):
        find_calibration(calibration_file(tmp_path, content)).load()


def test_negative_zero_is_no_new_sample(tmp_path: Path) -> None:
    content = {"fit": np.array([[0.0, 1.0]]), "holdout": np.array([[-0.0, 1.0]])}
    with pytest.raises(CalibrationError, match="1 of 1 held-out samples are also in fit"):
        find_calibration(calibration_file(tmp_path, content)).load()


def test_missing_arrays_and_files(tmp_path: Path) -> None:
    path = calibration_file(tmp_path, {"fit": arrays()["fit"]})
    with pytest.raises(CalibrationError, match=r"has no array 'holdout' \(it has fit\)"):
        find_calibration(path).load()
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CalibrationError, match="is damaged or no plain numpy file"):
        find_calibration(path).load()
    (tmp_path / "set.npz").unlink()
    with pytest.raises(CalibrationError, match="the samples of 'set' are missing"):
        find_calibration(path).load()
    with pytest.raises(CalibrationError, match="there is no such file"):
        find_calibration(tmp_path / "none.npz")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="no plain numpy file"):
        find_calibration(tmp_path / "objects.npy").load()


def test_a_lone_sample_cannot_be_split(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 3)))
    with pytest.raises(CalibrationError, match="holds 1 samples; at least 2 are needed"):
        find_calibration(tmp_path / "one.npy").load()


def test_the_digest_is_checked(tmp_path: Path) -> None:
    path = Path(calibration_file(tmp_path, arrays()))
    digest = hashlib.sha256((tmp_path / "set.npz").read_bytes()).hexdigest()
    text = path.read_text(encoding="utf-8")
    path.write_text(text + f'sha256 = "{digest}"', encoding="utf-8")
    assert len(find_calibration(path).load().fit[0]) == 4
    path.write_text(text + f'sha256 = "{digest[::-1]}"', encoding="utf-8")
    with pytest.raises(
        CalibrationError, match=f"has SHA-256 {digest[:12]}…, its description says {digest[:-13:-1]}"
    ):
        find_calibration(path).load()


def test_samples_outside_the_domain_are_refused(tmp_path: Path) -> None:
    path = calibration_file(tmp_path, arrays(), rest="[domain]\nlow = 0\nhigh = 20")
    with pytest.raises(CalibrationError, match=r"fit lies in \[0, 23\], outside its own domain \[0, 20\]"):
        find_calibration(path).load()


@pytest.mark.parametrize(
    ("data", "rest", "message"),
    [
        ("scale = 0", "", "scale must not be 0"),
        ('dtype = "int64"\nscale = 2', "", "int64 samples are taken as they are"),
        ('dtype = "float16"', "", 'expected one of "float32", "int64", found "float16"'),
        ('sha256 = "abc"', "", "64 hexadecimal digits"),
        ("shape = [2, 0]", "", r"positive sizes, not \[2, 0\]"),
        ('shape = [2, "3"]', "", r"shape\[1\]: expected a whole number"),
        ('inputs = ["a", "a"]', "", "names an input twice"),
        ('inputs = ["a", "b"]\nshape = [1]', "", "only for a single input"),
        ("", "[domain]\nlow = 1\nhigh = 0", "low must be below high, not 1 and 0"),
        ("", "[domain]\nhigh = 0", "the field 'low' is missing; it must be a number"),
        ("", '[domain]\nkind = "ball"\nlow = 0\nhigh = 1', 'expected one of "box", "linf"'),
        ("", "[domian]\n", "there is no field 'domian'; did you mean 'domain'"),
    ],
)
def test_a_malformed_set_says_what_and_where(tmp_path: Path, data: str, rest: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_calibration(calibration_file(tmp_path, arrays(), data, rest))
    assert "set.toml" in str(caught.value)


def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"shape \(6,\) \(6 values\); its description says \[7\]"):
        find_calibration(calibration_file(tmp_path, arrays(), "shape = [7]")).load()


def test_the_users_own_sets_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibration").mkdir()
    calibration_file(tmp_path / "calibration", arrays())
    monkeypatch.chdir(tmp_path)
    assert "set" in {c.name for c in list_calibrations()}
    with pytest.raises(ConfigError, match="there is no calibration set 'sett'; did you mean 'set'"):
        find_calibration("sett")
