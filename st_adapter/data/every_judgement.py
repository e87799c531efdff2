"""All judged queries of a data set as one split, to evaluate on all there is."""

from __future__ import annotations

from dataclasses import replace

import datasets
import pandas as pd

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.judgements import once_each
from st_adapter.data.splits import UNCUT


def with_all_judged(dataset: RetrievalDataset) -> RetrievalDataset:
    """The data set with one more split, `all`: every query that a split judges, with the highest of its judgements.

    A split of that name that is there already stays as it is. The other splits stay too.

    Args:
        dataset: With no splits left to be cut.

    Examples:
        >>> splits = {name: [{"query": f"{name}?", "document": f"{name}."}] for name in ("train", "dev", "test")}
        >>> with_all_judged(RetrievalDataset.load(splits)).num_queries
        {'train': 1, 'dev': 1, 'test': 1, 'all': 3}
    """
    if UNCUT in dataset.qrels:
        return dataset
    merged, _ = once_each(pd.concat([rows.to_pandas().assign(split=UNCUT) for rows in dataset.qrels.values()]))
    features = next(iter(dataset.qrels.values())).features
    rows = datasets.Dataset.from_dict({name: merged[name].tolist() for name in features}, features=features)
    return replace(dataset, qrels={**dataset.qrels, UNCUT: rows})
