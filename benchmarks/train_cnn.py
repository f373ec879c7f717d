"""Train the benchmarks' ResNet-20 or VGG-like net on MNIST and write its weights to benchmarks/.cache.

    python -m benchmarks.train_cnn [--net resnet20|vgg] [--quick] [--out FILE] [--seed N]

SGD with momentum and one cycle of the learning rate, two epochs of 30 000 images, batches of 128:
about 1 % test error after a few minutes on one core.
`--quick` stops after 20 steps and writes nothing: it shows that the script works.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import resnet20, vgg
from benchmarks.train_lenet import error_rate, tensors
from edgeprune.files import write_bytes

NETS = {"resnet20": (resnet20.ResNet20, resnet20.WEIGHTS), "vgg": (vgg.Vgg, vgg.WEIGHTS)}
BATCH = 128
EPOCHS = 2
IMAGES = 30_000
PEAK_LEARNING_RATE = 0.2
WEIGHT_DECAY = 5e-4


def train(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, *, seed: int, max_steps: int | None = None
) -> nn.Module:
    """A net trained on float32 (n, 1, 28, 28) images in [0, 1] and int64 (n,) labels."""
    torch.manual_seed(seed)
    net = make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    order = torch.cat([torch.randperm(len(images)) for _ in range(EPOCHS)]).split(BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=len(order))
    started = time.perf_counter()
    for step, batch in enumerate(order[:max_steps], start=1):
        x = images[batch].contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(x), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step:3d}/{len(order)}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    return net.to(memory_format=torch.contiguous_format).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 steps, nothing is written")
    parser.add_argument("--net", choices=NETS, default="resnet20")
    parser.add_argument("--out", type=Path, help="where to, instead of benchmarks/.cache")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, labels = tensors("train")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))[:IMAGES]
    make, weights = NETS[options.net]
    net = train(
        make,
        images[chosen].unflatten(1, (1, 28, 28)),
        labels[chosen],
        seed=options.seed,
        max_steps=20 if options.quick else None,
    )
    if options.quick:
        return
    images, labels = tensors("test")
    print(f"test error {100 * error_rate(net, images.unflatten(1, (1, 28, 28)), labels):.2f} %")
    out = options.out or weights
    write_bytes(out, save({name: t.contiguous() for name, t in net.state_dict().items()}))
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
