"""What a run is judged by: limits, lints, baselines, and what to do about each.

advice     What to do where a smaller net is slower, and what is to blame for it.
baseline   A run against an earlier one: how much worse it is, in per cent. Standard library only.
limits     What a gate holds a run against. Standard library only.
lints      Rules with stable ids: what deserves a second look in a run, and what to do about it.
onnx_lints Lints of one ONNX file; see `edgeprune.verdict.lints` for the rules.
usability  Which nodes of an ONNX file a mobile provider would take, and why not the others. Nothing …
"""
