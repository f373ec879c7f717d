"""Telling what a run found out: a page, a terminal table, a job summary, a JUnit file.

    html.render(run)         one self-contained page
    terminal.overview(run)   what the command line shows when a run ends
    summary.markdown(run)    for a CI job's summary page
    junit.junit(run)         one test case a limit, for a CI's test view

Every one of them reads records only and returns its result; none prints, writes or measures.
Beneath them lie `wording` (numbers and names as people read them), `figures` (the verdict and the
figures a reader looks for first), `tables` (records as rows), and `svg` and `charts` (pictures).

Beside them:

    annotations   The verdict as GitHub's workflow commands, which a job's log turns into …
    comparison    Several runs on one page: side by side, and as a front of error against size.
    distribution  How the error is distributed over the held-out inputs, and what is promised of …
    metrics       The run as OpenMetrics text: for GitLab's metrics report, or a node exporter's …
    operation_times  Where each target spends its time before and after, by operation: a picture …
    sampling      Which samples a run used for what, and how they chose how much is pruned.
    search_page   A search as one HTML page: its front as a picture to explore, every point, and …
    sarif         Lints and verdict as SARIF 2.1.0, for GitHub code scanning and editors.
    tradeoff      The picture of error against size that the widths were chosen by, with the chosen …
"""
