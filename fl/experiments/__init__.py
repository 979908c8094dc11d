"""Experiments: named comparisons of whole training runs, broken off and gone on with at will, and their page.

`experiment` says what an experiment and its arms are, `federated` has the arm that nearly all of them are made of,
`folder` what is kept on disk, `running` and `workers` how arms are run, `catalog` which experiments there are.
"""
