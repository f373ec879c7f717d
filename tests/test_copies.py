from __future__ import annotations

import copy

import torch
from nets import noise, seeded
from torch import Tensor, nn

from edgeprune.graph.copies import copied, in_precision, sharing
from edgeprune.stages.trace import trace


class Mixed(nn.Module):
    """Tied weights, a buffer that is not saved, a recurrent layer, and attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.sizes = {"inner": [4, 4]}
        self.same = self.first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lstm(self.second(self.first(x)) * self.scale)[0]
        return out


def test_a_sharing_copy_has_its_own_structure_and_the_same_tensors() -> None:
    net, x = seeded(Mixed), noise(2, 3, 4)
    made = sharing(net)
    assert type(made) is type(net)
    assert [(n, id(p)) for n, p in made.named_parameters()] == [(n, id(p)) for n, p in net.named_parameters()]
    assert made.same is made.first is not net.first
    assert made.lstm._flat_weights[0] is made.lstm.weight_ih_l0
    made.sizes["inner"][0] = 2
    made.first.out_features = 2
    made.first.weight = nn.Parameter(torch.zeros(2, 4))
    assert (net.sizes["inner"], net.first.out_features) == ([4, 4], 4)
    assert torch.equal(net(x), copy.deepcopy(net)(x))


def test_a_copy_in_another_precision_leaves_the_net_alone() -> None:
    net = seeded(Mixed).float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    double, x = in_precision(net, torch.float64), noise(2, 3, 4)
    assert {value.dtype for value in double.state_dict().values()} == {torch.float64}
    assert double.scale.dtype is torch.float64
    assert double.first.weight is double.second.weight
    assert torch.equal(double(x.double()), copied(net).double()(x.double()))
    same = in_precision(net, torch.float32)
    same.scale += 1.0
    assert float(net.scale) == 2.0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_traced_graph_is_shared_and_runs() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.randn(2, 3, 5, 5)
    graph = trace(net, [x])
    made = sharing(graph.module)
    assert made.get_parameter("0.weight") is graph.module.get_parameter("0.weight")
    assert torch.equal(made(x), net(x))
    assert torch.equal(copied(made)(x), net(x))
    assert made.state_dict().keys() == graph.module.state_dict().keys()
