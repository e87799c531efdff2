"""A data set as vectors: the encoder and its identity, the cache, the vectors, exact search."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.embeddings.checked_embedding import embed as embed
    from st_adapter.embeddings.corpus import Corpus as Corpus
    from st_adapter.embeddings.corpus import MemoryCorpus as MemoryCorpus
    from st_adapter.embeddings.disk_corpus import DiskCorpus as DiskCorpus
    from st_adapter.embeddings.embed_folder import FolderSettings as FolderSettings
    from st_adapter.embeddings.embed_folder import embed_to_folder as embed_to_folder
    from st_adapter.embeddings.embedded import EmbeddedDataset as EmbeddedDataset
    from st_adapter.embeddings.embedded import EmbeddedQrels as EmbeddedQrels
    from st_adapter.embeddings.embedded import EmbeddedSplit as EmbeddedSplit
    from st_adapter.embeddings.embedding import embed_pseudo_queries as embed_pseudo_queries
    from st_adapter.embeddings.encoder import Encoder as Encoder
    from st_adapter.embeddings.fingerprint import model_fingerprint as model_fingerprint
    from st_adapter.embeddings.function_encoder import FunctionEncoder as FunctionEncoder
    from st_adapter.embeddings.identity import EncoderIdentity as EncoderIdentity
    from st_adapter.embeddings.index_check import IndexComparison as IndexComparison
    from st_adapter.embeddings.index_check import compare_index as compare_index
    from st_adapter.embeddings.index_check import compare_vectors as compare_vectors
    from st_adapter.embeddings.local_engine import LocalEngine as LocalEngine
    from st_adapter.embeddings.openai_encoder import OpenAIEncoder as OpenAIEncoder
    from st_adapter.embeddings.ray_engine import RayEngine as RayEngine
    from st_adapter.embeddings.soft_targets import SoftTargets as SoftTargets
    from st_adapter.embeddings.store_corpus import StoreCorpus as StoreCorpus
    from st_adapter.embeddings.teacher import open_teacher as open_teacher
    from st_adapter.embeddings.teaching import School as School
    from st_adapter.embeddings.teaching import ask_teacher as ask_teacher
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "checked_embedding": ["embed"],
            "corpus": ["Corpus", "MemoryCorpus"],
            "disk_corpus": ["DiskCorpus"],
            "embed_folder": ["FolderSettings", "embed_to_folder"],
            "embedded": ["EmbeddedDataset", "EmbeddedQrels", "EmbeddedSplit"],
            "embedding": ["embed_pseudo_queries"],
            "encoder": ["Encoder"],
            "fingerprint": ["model_fingerprint"],
            "function_encoder": ["FunctionEncoder"],
            "identity": ["EncoderIdentity"],
            "index_check": ["IndexComparison", "compare_index", "compare_vectors"],
            "local_engine": ["LocalEngine"],
            "openai_encoder": ["OpenAIEncoder"],
            "ray_engine": ["RayEngine"],
            "soft_targets": ["SoftTargets"],
            "store_corpus": ["StoreCorpus"],
            "teacher": ["open_teacher"],
            "teaching": ["School", "ask_teacher"],
        },
    )
