"""Runs models where they are meant to run, and says what really happened.

A stand-alone program: python (>= 3.10), numpy and onnxruntime are all it needs. It imports nothing
of edgeprune but itself, so `edgeprune.runtimes.shipping` packs these files into one `agent.pyz`
that a transport can copy to a device and start with

    python agent.pyz JOB_DIR

JOB_DIR/job.json says what to do (see `edgeprune/runtimes/jobs.py`, which writes it), inputs.npz
holds the inputs, models/ the ONNX files. It writes JOB_DIR/result.json, for outputs also
JOB_DIR/outputs.npz. `status` in the result is `ok`, or `unavailable` with a reason; without a
result the process died.

Job kinds: `probe` (what is there), `outputs` (one model over all inputs, load and first run timed,
peak memory), `pairs` (paired latencies of two models, and of the first against itself), `times`
(one model from load to steady state), `trace` (where one model's time goes, by operation) and
`layers` (many tiny models, the time of each).
"""
