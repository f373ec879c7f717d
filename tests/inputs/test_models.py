from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.inputs.models import digest, fill_weights, from_module, load_model, parse_inputs

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

def build_trained():
    return build().eval()
"""


@pytest.fixture(autouse=True)
def _unchanged_interpreter() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("edgeprune_user_", "usernet")):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the code that a user would."""

    def write(code: str, name: str = "net.py") -> Path:
        (tmp_path / name).write_text(code)
        return tmp_path / name

    return write


def test_a_file_gives_a_model_in_evaluation_mode_and_says_if_it_was_not(file: Callable[[str], Path]) -> None:
    path = file(NET)
    loaded = load_model(f"{path}:build")
    assert not any(module.training for module in loaded.module.modules())
    assert loaded.name == "build"
    assert loaded.factory == f"{path}:build"
    assert loaded.inputs is None
    assert len(loaded.notes) == 1
    assert "training mode" in loaded.notes[0]
    assert load_model(f"{path}:build_trained").notes == ()
    assert load_model(f"{path}:build_trained").weights_sha256 == loaded.weights_sha256


def test_an_installed_module_gives_a_model_with_the_inputs_beside_it() -> None:
    loaded = load_model("edgeprune.demo.lenet:build")
    assert loaded.inputs is not None
    assert [tuple(x.shape) for x in loaded.inputs] == [(1, 784)]


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usernet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("usernet:build").module, nn.Sequential)


def test_a_file_may_import_the_files_beside_it_and_define_dataclasses(file: Callable[..., Path]) -> None:
    file("WIDTH = 5", "usernet_widths.py")
    path = file(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\nfrom usernet_widths import WIDTH\n"
        "@dataclass\nclass Shape:\n    width: int = WIDTH\n"
        "def build(shape: Shape | None = None):\n    return nn.Linear(Shape().width, 2)\n"
    )
    assert load_model(f"{path}:build").module.in_features == 5


def test_a_module_that_stands_in_the_file_is_taken_as_it_is(file: Callable[[str], Path]) -> None:
    path = file("from torch import nn\nmodel = nn.Linear(2, 2).eval()")
    assert isinstance(load_model(f"{path}:model").module, nn.Linear)


@pytest.mark.parametrize("spec", ["net.py", "build", ":build", "net.py:", "package.module"])
def test_what_names_no_factory_is_refused(spec: str) -> None:
    with pytest.raises(ModelError, match=r"a model is named package\.module:factory"):
        load_model(spec)


@pytest.mark.parametrize(
    ("code", "factory", "said"),
    [
        (NET, "biuld", "has no 'biuld'; did you mean 'build'"),
        ("x = 1", "build", "has no 'build'; it defines no functions"),
        ("build = 3", "build", "is a int, not a function"),
        ("def build(): raise KeyError('gone')", "build", "raised KeyError: 'gone'"),
        ("def build(width, *, depth, kind=1): pass", "build", r"needs arguments \(width, depth\)"),
        ("def build(): return {'a': 1}", "build", "returned a dict, not an nn.Module"),
        ("import no_such_package_at_all", "build", "fails when imported: ModuleNotFoundError"),
        ("def build(:", "build", "fails when imported: SyntaxError"),
        ("raise RuntimeError('no GPU here')", "build", "fails when imported: RuntimeError: no GPU here"),
        (NET + "def example_inputs(): return 1 / 0", "build", r"example_inputs\(\) raised ZeroDivisionError"),
        (NET + "def example_inputs(): return ()", "build", "must return a tensor or a tuple of tensors"),
        (
            NET + "def example_inputs(): return [[1, 2]]",
            "build",
            "must return a tensor or a tuple of tensors",
        ),
        (NET + "def example_inputs(): return 3", "build", r"example_inputs\(\)"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(
    file: Callable[[str], Path], code: str, factory: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(f"{file(code)}:{factory}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere/net.py:build", "nowhere/net.py: there is no such file"),
        ("no_such_package_at_all:build", "no_such_package_at_all: cannot be imported"),
        ("nowhere/net.pt2", "there is no such file"),
    ],
)
def test_what_is_not_there_is_said(spec: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(spec)


def test_example_inputs_may_be_one_tensor(file: Callable[[str], Path]) -> None:
    path = file(NET + "def example_inputs(): return torch.zeros(1, 4)")
    inputs = load_model(f"{path}:build").inputs
    assert inputs is not None
    assert [tuple(x.shape) for x in inputs] == [(1, 4)]


def test_weights_are_filled_in_and_change_the_digest(file: Callable[[str], Path], tmp_path: Path) -> None:
    path = file(NET)
    plain = load_model(f"{path}:build")
    state = {name: value + 1 for name, value in plain.module.state_dict().items()}
    weights = tmp_path / "w.safetensors"
    save_file({name: value for name, value in state.items() if "num_batches" not in name}, weights)
    loaded = load_model(f"{path}:build", str(weights))
    assert torch.equal(loaded.module.state_dict()["2.bias"], state["2.bias"])
    assert loaded.weights_sha256 != plain.weights_sha256
    assert loaded.notes == plain.notes


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3), **changes}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (changed(bias=None), r"they lack bias \(and 0 more\)\."),
        (changed(extra=torch.zeros(1)), r"they have extra \(and 0 more\), which it does not know"),
        (changed(weight=None, bias=None, w=torch.zeros(1)), r"lack weight \(and 1 more\) and have w"),
        (changed(weight=torch.zeros(4, 3)), r"weight has shape \(4, 3\), the model's has \(3, 4\)"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, state: dict[str, torch.Tensor], said: str
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    net = nn.Linear(4, 3)
    before = digest(net)
    with pytest.raises(ModelError, match=said):
        fill_weights(net, tmp_path / "w.safetensors")
    assert digest(net) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    file: Callable[[str], Path], tmp_path: Path, value: float
) -> None:
    path = file("from torch import nn\ndef build(): return nn.Linear(4, 3)")
    weight = torch.zeros(3, 4)
    weight[1, 1:3] = value
    save_file(changed(weight=weight), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="weight: 2 of 12 entries are NaN or infinite"):
        load_model(f"{path}:build", str(tmp_path / "w.safetensors"))


def test_a_model_that_holds_nan_is_refused_without_weights_too() -> None:
    net = nn.BatchNorm1d(2)
    assert net.running_var is not None
    net.running_var[0] = float("nan")
    with pytest.raises(ModelError, match="running_var: 1 of 2 entries"):
        from_module(net)


@pytest.mark.parametrize("damage", ["truncated", "empty", "a pickle by another name", "missing", "a folder"])
def test_a_damaged_weights_file_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(changed(), path)
    whole = path.read_bytes()
    path.unlink()
    match damage:
        case "truncated":
            path.write_bytes(whole[:-5])
        case "empty":
            path.touch()
        case "a pickle by another name":
            path.write_bytes(pickle.dumps(changed()))
        case "a folder":
            path.mkdir()
    with pytest.raises(ModelError, match=r"--weights .*w.safetensors: (is damaged|there is no such file)"):
        fill_weights(nn.Linear(4, 3), path, trust_pickle=True)


def test_a_pickle_needs_consent(tmp_path: Path) -> None:
    torch.save(changed(bias=torch.ones(3)), tmp_path / "w.pt")
    net = nn.Linear(4, 3)
    with pytest.raises(ModelError, match=r"reading a pickle can run code.*--trust-pickle"):
        fill_weights(net, tmp_path / "w.pt")
    fill_weights(net, tmp_path / "w.pt", trust_pickle=True)
    assert torch.equal(net.bias, torch.ones(3))


def test_a_checkpoint_with_a_state_dict_inside_is_read(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": changed(bias=torch.ones(3))}, tmp_path / "w.pth")
    net = nn.Linear(4, 3)
    fill_weights(net, tmp_path / "w.pth", trust_pickle=True)
    assert torch.equal(net.bias, torch.ones(3))


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"weight": "text"}])
def test_a_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        fill_weights(nn.Linear(4, 3), tmp_path / "w.pt", trust_pickle=True)


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("consent", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_malicious_pickle_is_never_executed(tmp_path: Path, consent: bool, bare: bool) -> None:
    spoils = tmp_path / "spoils"
    if bare:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(Malicious(spoils)))
    else:
        torch.save({"weight": Malicious(spoils)}, tmp_path / "w.pt")
    with pytest.raises(ModelError):
        fill_weights(nn.Linear(4, 3), tmp_path / "w.pt", trust_pickle=consent)
    assert not spoils.exists()


def test_a_malicious_program_is_not_read_without_consent(tmp_path: Path) -> None:
    spoils = tmp_path / "spoils"
    (tmp_path / "net.pt2").write_bytes(pickle.dumps(Malicious(spoils)))
    with pytest.raises(ModelError, match="--trust-pickle"):
        load_model(str(tmp_path / "net.pt2"))
    assert not spoils.exists()


def test_an_exported_program_is_a_model(tmp_path: Path) -> None:
    net = nn.Linear(4, 3).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 4),), strict=False), tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2"), trust_pickle=True)
    x = torch.ones(1, 4)
    torch.testing.assert_close(loaded.module(x), net(x))
    assert loaded.name == "net"


def test_a_file_that_is_no_program_is_said(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="is no exported program"):
        load_model(str(tmp_path / "net.pt2"), trust_pickle=True)


def test_a_digest_tells_names_shapes_types_and_bytes_apart() -> None:
    def of(**tensors: torch.Tensor) -> str:
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return digest(module)

    zeros = torch.zeros(2, 3)
    variants = [
        of(a=zeros),
        of(b=zeros),
        of(a=zeros.T),
        of(a=zeros.double()),
        of(a=zeros.bfloat16()),
        of(a=zeros.int()),
        of(a=zeros, b=zeros),
        of(a=torch.zeros(())),
        of(a=torch.tensor(True)),
        of(a=torch.tensor([[0.0, 0, 0], [0, 0, 1e-30]])),
    ]
    assert len(set(variants)) == len(variants)
    assert of(a=zeros, b=zeros + 1) == of(b=zeros + 1, a=zeros.clone())
    assert of(a=zeros.T) == of(a=torch.zeros(3, 2))


def test_inputs_are_made_as_they_are_described() -> None:
    image, ids, mask, scalar = parse_inputs(
        ("1x3x8x8", "ids=2x4:int64", "mask=2x4:bool", "7:float16"), seed=3
    )
    assert (image.shape, image.dtype) == ((1, 3, 8, 8), torch.float32)
    assert (ids.shape, ids.dtype) == ((2, 4), torch.int64)
    assert set(ids.unique().tolist()) <= {0, 1}
    assert (mask.shape, mask.dtype) == ((2, 4), torch.bool)
    assert (scalar.shape, scalar.dtype) == ((7,), torch.float16)
    again = parse_inputs(("1x3x8x8", "ids=2x4:int64"), seed=3)
    assert torch.equal(image, again[0])
    assert not torch.equal(image, parse_inputs(("1x3x8x8",), seed=4)[0])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "is not of the form"),
        ("1x", "is not of the form"),
        ("x3", "is not of the form"),
        ("1,3,224,224", "is not of the form"),
        ("-1x3", "is not of the form"),
        ("1x3x224x224:", "is not of the form"),
        ("1.5x3", "is not of the form"),
        ("1x3:flaot32", "unknown dtype 'flaot32'; did you mean 'float32'"),
        ("1x0x3", "a size of 0"),
    ],
)
def test_a_malformed_description_of_an_input_is_said(spec: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parse_inputs((spec,), seed=0)
