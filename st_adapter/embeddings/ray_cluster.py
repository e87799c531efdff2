"""A Ray cluster: one that runs already, or one on this machine for as long as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

LOCAL = "local"


def check_ray_installed() -> None:
    """Raise ImportError if Ray is not installed, without the seconds that it takes to import it."""
    if find_spec("ray") is None:
        raise ImportError("Ray is not installed. Install it with: pip install 'st-adapter[ray]'")


@contextmanager
def ray_cluster(address: str | None, num_cpus: int = 1) -> Iterator[Any]:
    """Give the module ``ray``, connected to a cluster; what was connected before stays connected.

    Args:
        address: of a cluster; ``local`` or None for one on this machine.
        num_cpus: that one on this machine says it has, at least.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no such cluster.
    """
    check_ray_installed()
    import ray

    if ray.is_initialized():
        yield ray
        return
    local = address is None or address == LOCAL
    options = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False} if local else {}
    try:
        ray.init(address=address or LOCAL, log_to_driver=False, logging_level="warning", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"The Ray cluster {address!r} cannot be reached: {str(error).splitlines()[0]}. Start it with `ray start "
            "--head`, or check its address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
