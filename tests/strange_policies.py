"""Policies of a package that is not ours, each with another bug, to be installed for a test."""

from __future__ import annotations

from pathlib import Path

__all__ = ["install"]

_CODE = '''
"""As somebody might have written it."""


class RaisesInPlan:
    def __init__(self, config):
        pass

    def plan(self, now_us, queues, known):
        if len(queues):
            raise ZeroDivisionError("a bug in plan")
        return None


class RaisesInInit:
    def __init__(self, config):
        raise ValueError("a bug in __init__")


class HasNoPlan:
    def __init__(self, config):
        pass


class RaisesInBeside(RaisesInPlan):
    @property
    def beside(self):
        raise ValueError("a bug in beside")
'''
_ENTRY_POINTS = """[symbiosis.policies]
raises_in_plan = strange_policies_of_a_test:RaisesInPlan
raises_in_init = strange_policies_of_a_test:RaisesInInit
raises_in_beside = strange_policies_of_a_test:RaisesInBeside
has_no_plan = strange_policies_of_a_test:HasNoPlan
is_not_there = strange_policies_of_a_test:IsNotThere
lacks_a_package = strange_policies_lacking:Policy
ends_the_process = strange_policies_script:Policy
"""


def install(folder: Path) -> None:
    """Makes the policies found by whoever has `folder` in its path."""
    (folder / "strange_policies_of_a_test.py").write_text(_CODE)
    (folder / "strange_policies_lacking.py").write_text("import a_package_that_nobody_has\n")
    (folder / "strange_policies_script.py").write_text("raise SystemExit(3)\n")
    told = folder / "strange_policies-1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-policies\nVersion: 1\n")
    (told / "entry_points.txt").write_text(_ENTRY_POINTS)
