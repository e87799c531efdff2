"""What makes stacks use an adapter, and whether they do: one file per stack, imported only by who uses that stack."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.stacks.check import StackCheck as StackCheck
    from st_adapter.stacks.check import check_stack as check_stack
    from st_adapter.stacks.diagnosis import StackProblem as StackProblem
    from st_adapter.stacks.wrapping import wrap as wrap
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "check": ["StackCheck", "check_stack"],
            "diagnosis": ["StackProblem"],
            "wrapping": ["wrap"],
        },
    )
