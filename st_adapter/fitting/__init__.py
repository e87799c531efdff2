"""From labelled pairs of vectors to an adapter, chosen and tested on queries that it has not seen."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.fitting.arguments import AdapterTrainingArguments as AdapterTrainingArguments
    from st_adapter.fitting.auto import FitResult as FitResult
    from st_adapter.fitting.auto import fit as fit
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "arguments": ["AdapterTrainingArguments"],
            "auto": ["FitResult", "fit"],
        },
    )
