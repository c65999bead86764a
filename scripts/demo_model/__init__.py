"""How the demo model of `models/` is made. Start at `scripts/train_demo_model.py`.

`chat`, `questions`, `invention`, `docstrings` and `corpus` need Python only; `vocabulary`, `network`,
`training` and `export` need the packages of the `train` extra.
"""
