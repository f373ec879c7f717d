"""What a user brings: a model, samples, losses and measures of their own; found and checked.

losses      What a shrunk net is trained for: losses by name, and functions of the user's own.
measures    Numbers of the user's own: a function over the outputs that a run saved.
models      From what the user names to a torch model with weights and example inputs.
preparation Everything a run needs, found and checked before anything is done.
query_nets  Nets as queries of a data coreset: the model with noise of random strength on its weights.
samples     The samples of a calibration set: read, checked, and turned into what the model receives.
splits      Which samples were used for what: recorded, and never the same one to choose by and to …
"""
