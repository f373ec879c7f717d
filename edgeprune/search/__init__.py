"""Searches: trials by Optuna, work by processes or a Dask cluster, results kept by what they were made from.

search      A search from beginning to end: opened, conducted, written down, and one point made a run.
begin       From what the user asks for to a search that can run: all is found and checked.
ground      What a search stands on: its rules, the opened model, and a trial on paper.
space       What is varied: what an allocation is told, not hundreds of raw widths.
objectives  What is made small, what must be kept to, and which point of the front is taken.
conduct     The search itself: ask, find out what a trial is worth, cheap before dear, and tell.
study       Trials by Optuna: a desk in memory for the sampler, and a book of every trial.
storages    Where studies are kept: a journal file, a database, or Optuna's storage proxy.
bench       One model opened with its samples, and every stage that a trial goes through.
work        What a worker does: make the net of a trial, step by step, or measure one on a device.
workers     Processes and devices of this machine.
cluster     A Dask cluster: devices are resources of its workers.
lease       One measurement on a device at a time, with a pause between two.
store       Results by what they were made from.
front       Points that no other point beats in everything.
merge       The parts of a search that was split, put together.
place       The folder of a search.
"""
