"""From an adapter and a base model to a repository, and back; the Hub and the model card."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.saving.alone import push_adapter as push_adapter
    from st_adapter.saving.alone import save_adapter as save_adapter
    from st_adapter.saving.combined import combine as combine
    from st_adapter.saving.joined_files import save_query_part as save_query_part
    from st_adapter.saving.onnx_export import export_onnx as export_onnx
    from st_adapter.saving.opening import from_pretrained as from_pretrained
    from st_adapter.saving.push import push_folder as push_folder
    from st_adapter.saving.push import push_to_hub as push_to_hub
    from st_adapter.saving.record import SplitScores as SplitScores
    from st_adapter.saving.record import TrainingRecord as TrainingRecord
    from st_adapter.saving.save import save_pretrained as save_pretrained
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "alone": ["push_adapter", "save_adapter"],
            "combined": ["combine"],
            "joined_files": ["save_query_part"],
            "onnx_export": ["export_onnx"],
            "opening": ["from_pretrained"],
            "push": ["push_folder", "push_to_hub"],
            "record": ["SplitScores", "TrainingRecord"],
            "save": ["save_pretrained"],
        },
    )
