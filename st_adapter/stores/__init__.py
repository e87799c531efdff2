"""Vector databases that hold a corpus already: read, never written to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.stores.folder import VectorFolder as VectorFolder
    from st_adapter.stores.opening import is_address as is_address
    from st_adapter.stores.opening import open_store as open_store
    from st_adapter.stores.store import Store as Store
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "folder": ["VectorFolder"],
            "opening": ["is_address", "open_store"],
            "store": ["Store"],
        },
    )
