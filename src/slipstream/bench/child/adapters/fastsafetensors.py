"""fastsafetensors. Without GPUDirect Storage, unless a setting asks for it: to host memory there is none."""

from __future__ import annotations

from ..job import Job, Tensors


def load(job: Job) -> Tensors:
    """Copies whole files into buffers, of which the tensors are views.

    Settings: `bbuf_size_kb` and `max_threads`, of its reading; `gds`.
    """
    from fastsafetensors import SafeTensorsFileLoader

    job.refuse_names()
    tuned = {name: job.settings[name] for name in ("bbuf_size_kb", "max_threads") if name in job.settings}
    loader = SafeTensorsFileLoader(
        None, device=job.destination, nogds=not job.settings.get("gds", False), framework="pytorch", **tuned
    )
    try:
        loader.add_filenames({0: job.uris})
        buffers = loader.copy_files_to_device()
        try:
            for name in list(buffers.key_to_rank_lidx):
                yield name, buffers.get_tensor(name)
        finally:
            buffers.close()
    finally:
        loader.close()
