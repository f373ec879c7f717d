"""What a net of given widths costs, and the widths that a budget allows.

budget     What a net takes, what may be left of it, and the widths that a target computes well.
costs      What a net of given widths costs: a sum of pieces, each a function of the widths of a few …
left_whole Why a group that could lose units keeps all of them, in a few words.
pricing    The price of a net as a quadratic form of its widths, so that pricing one takes microseconds.
programme  Widths by an integer programme: a multiple-choice knapsack whose prices depend on pairs of …
"""
