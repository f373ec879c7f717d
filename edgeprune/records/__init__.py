"""What outlives a run: records, the folder they lie in, and the proof that nobody changed them.

allocation     How a budget became widths, as it stands in `run.json`. Standard library only.
counterexample An input on which a promise was seen broken: kept beside the run, and the run is aborted.
environment    Where a run is made: versions of the tools, and the machine.
folder         A run's folder: claimed by one process at a time, resumed where the last one stopped.
measurements   What targets measured, as it is written to `run.json`. Standard library only.
provenance     Whether the files of a run folder are those that the run wrote, and whose run it is.
run            What outlives a run: plain records that are written to `run.json` and read back.
search         The record of a search: what `search.json` holds, for the report and for other programs.
serialization  Records ↔ what `json` writes and reads; types are checked on the way back, numbers are …
versions       Runs that another version wrote: what can be read is read, else the message names that …
"""
