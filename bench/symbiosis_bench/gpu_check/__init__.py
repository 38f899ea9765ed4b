"""Everything that needs a GPU, as one program for a machine that is there for a few minutes and has no network.

    __main__.py       the order of things, the budget, and the dated JSON
    requirements.py   what must be there; the standard library is enough to say what is not
    steps.py          one step: a process of its own, with a limit, whose last line is its figures
    parts/            the steps themselves

None of it has been run on a GPU yet. Most parts run over the fake device, too (`--fake`), which tries the
program and says nothing about a GPU.
"""
