"""What is made of bounds before a stage tells it: the twin nets, promises by draw, by samples, over a domain.

deterministic Bounds over every input of a domain, by the methods asked for, with growing effort.
distribution  What held-out samples promise about the distribution that they were drawn from.
foresight     What is known before anything is run: the error that each choice will cause, and what …
theorem       The coreset theorem's promise for the layers that were sampled by it.
twins         The original net and the pruned one, node by node: what the differential bounds walk.
worst_case    `--minimax-lambda`: the readers of pruned groups weighed again, so that the certificate …
"""
