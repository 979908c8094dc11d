"""Experiments: named comparisons of whole training runs, which can be interrupted and resumed.

`experiment` says what an experiment and its arms are, `federated` has the arm that nearly all of them are made of,
`folder` what is kept on disk, `running` and `workers` how arms are run, `catalog` which experiments there are.
"""
