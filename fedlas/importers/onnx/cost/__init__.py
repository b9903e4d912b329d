"""The cost of a graph's rows: the sizes of all tensors, none of which a value of a row may choose.

`shape_rules` give the sizes of results, `operators.roles` says what operators read as sizes; `interpreter` runs a graph
with them, `serving_cost` counts what rows cost.
"""
