"""The stages of the line, one file each: a value in, a new value out.

    nn.Module ─trace→ Graph ─couple→ Coupling ─allocate→ widths ─choose→ Plan ─shrink→ nn.Module
       ─export→ Artifact ─simplify→ Artifact ─validate (× each target)→ Validation
       ─certify→ Certificates ⇒ Run ─gate→ Verdict

No stage imports another; only `edgeprune.pipeline` knows the order. `choose` observes the
calibration set as it goes: each group is chosen in the net that is already pruned below it.
"""
