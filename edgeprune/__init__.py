"""Coreset structured pruning of torch models, exported, certified and measured."""
