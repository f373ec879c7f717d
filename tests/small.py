"""A small seeded net and its data, named on the command line by the tests."""

import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def training():
    return build().train()


def raises():
    raise RuntimeError("the licence server is away")


def needs(width):
    return nn.Linear(width, 2)


def no_module():
    return 7


def undefined():
    net = build()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    return net


class Branches(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 4)

    def forward(self, x):
        y = self.first(x)
        return y if y.sum() > 0 else -y


def branches():
    return Branches()


class Written(nn.Module):
    """A size is written into forward, so the narrowed module cannot run."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 8, 3, padding=1)
        self.last = nn.Linear(8 * 8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x[:, None])).reshape(-1, 64))


def written():
    torch.manual_seed(1)
    return Written().eval()
