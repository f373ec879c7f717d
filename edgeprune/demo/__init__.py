"""The bundled model: LeNet-300-100 with real weights, so that edgeprune can show itself end to end.

`edgeprune.demo.lenet` holds the net and its factory; `lenet_300_100.safetensors` beside it holds the
weights, trained on MNIST (LeCun, Cortes and Burges) by `benchmarks/train_lenet.py`. The weights are
licensed under Apache-2.0, like the rest of edgeprune. Importing this package does not import torch.
"""
