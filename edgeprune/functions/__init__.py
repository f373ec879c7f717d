"""What operations are mathematically: linear kernels, curves of one number, intervals rounded outwards.

curves      Scalar functions as bounds see them: where on an interval they are extreme, and how steep.
forms       What an operation is mathematically: the narrow waist between operations and bounds.
intervals   Intervals in float64 whose ends are rounded outwards, so that what was computed is what …
kernels     Products of a weight and a tensor: the linear part of every layer, forwards and backwards.
patch_norms How large what a layer hears at one position can be, in the l2 norm: the β of the coreset …
"""
