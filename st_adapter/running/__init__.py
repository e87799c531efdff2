"""The one verb, ``train(model, dataset)``: its settings, data and result; a query model's, a deployed adapter's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.running.result import Result as Result
    from st_adapter.running.run import train as train
    from st_adapter.running.settings import RunOptions as RunOptions
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__, {"result": ["Result"], "run": ["train"], "settings": ["RunOptions"]}
    )
