"""From files, frames and the Hub to a retrieval data set, and its splits."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.data.dataset import RetrievalDataset as RetrievalDataset
    from st_adapter.data.leaks import LeakReport as LeakReport
    from st_adapter.data.leaks import drop_leaks as drop_leaks
    from st_adapter.data.leaks import find_leaks as find_leaks
    from st_adapter.data.summary import DataSummary as DataSummary
    from st_adapter.data.summary import summarised as summarised
    from st_adapter.data.texts import TextSource as TextSource
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "dataset": ["RetrievalDataset"],
            "leaks": ["LeakReport", "drop_leaks", "find_leaks"],
            "summary": ["DataSummary", "summarised"],
            "texts": ["TextSource"],
        },
    )
