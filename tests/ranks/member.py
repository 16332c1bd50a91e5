"""One rank of a crew: a process that joins a process group and then does what the test tells it, one thing at a time.

    python -m tests.ranks.member RANK SIZE PORT

A command is a line of JSON, [name, arguments]; the answer is another. The store is the test's own, as under torchrun,
where it is the agent's: it outlives every rank.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, cast

import numpy
import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import slipstream
from slipstream.delivery.accelerator import Accelerator, open_accelerator
from slipstream.delivery.host import HostLanding
from slipstream.integrations.vllm import weights
from slipstream.integrations.vllm.settings import parse_settings
from slipstream.planning import staging
from slipstream.ranks import device_group, meeting, watch
from slipstream.ranks.engine import RankEngine
from tests.staging.conftest import accelerate, wrap_copiers


class Member:
    """What a test can ask of a rank: each method is a command."""

    def __init__(self) -> None:
        self.stream: slipstream.TensorStream | None = None
        self.kept: list[object] = []
        self.patch = pytest.MonkeyPatch()
        self.groups: dict[str, dist.ProcessGroup] = {}

    def load(self, uri: str | list[str], *, group: str | None = None, **arguments: Any) -> dict[str, object]:
        """Streams to the end: names in order, a digest of each tensor, and the figures."""
        self.open(uri, group=group, **arguments)
        return self.rest()

    def open(self, uri: str | list[str], *, group: str | None = None, **arguments: Any) -> None:
        options = slipstream.Options(**arguments.pop("options", {}))
        if part := arguments.pop("part", None):
            arguments["shard"] = slipstream.Shard(dist.get_rank(), dist.get_world_size(), part)
        self.stream = slipstream.stream(
            uri, options=options, distributed=self.groups[group] if group else True, **arguments
        )

    def take(self, count: int) -> list[str]:
        """Takes so many tensors, and drops them."""
        assert self.stream is not None
        return [next(self.stream)[0] for _ in range(count)]

    def rest(self) -> dict[str, object]:
        """Takes all that is left."""
        assert self.stream is not None
        found: list[tuple[str, str]] = []
        with self.stream:
            for name, tensor in self.stream:
                found.append((name, digest(tensor)))
                del tensor
        stats = self.stream.stats()
        self.stream = None
        return {
            "tensors": found,
            "read": sum(file.bytes for file in stats.files),
            "received": stats.received_bytes,
            "ranks": stats.ranks,
            "peak": stats.peak_buffer_bytes,
            "ring": stats.ring_bytes,
            "copied": stats.copies,
        }

    def rest_until_closed(self, seconds: float) -> None:
        """Takes all that is left, while another thread closes the stream after so long."""
        assert self.stream is not None
        threading.Timer(seconds, self.stream.close).start()
        for _ in self.stream:
            pass

    def receive_nothing(self) -> None:
        """From now on no broadcast ends here."""

        def wait(passing: device_group.DevicePassing) -> bool:
            time.sleep(0.05)
            return False

        self.patch.setattr(device_group.DevicePassing, "wait", wait)

    def rest_until_ctrl_c(self) -> None:
        """Takes all that is left, and is interrupted as soon as it waits for more."""
        stream = self.stream
        assert stream is not None
        rounds = cast(RankEngine, stream._engine)._rounds

        def interrupt() -> None:
            while rounds._waiting_thread is None:
                pass
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        self.rest()

    def close(self) -> None:
        assert self.stream is not None
        self.stream.close()
        self.stream = None

    def take_and_close(self, count: int) -> list[str]:
        """Both, without waiting for the other ranks in between."""
        taken = self.take(count)
        self.close()
        return taken

    def keep(self) -> None:
        """Takes all that is left, and keeps it."""
        assert self.stream is not None
        for pair in self.stream:
            self.kept.append(pair)

    def drop(self) -> None:
        """Drops what was kept."""
        self.kept.clear()
        self.stream = None

    def load_beside(self, uri: str) -> None:
        """Another load, while the stream is open."""
        slipstream.load(uri, distributed=True)

    def load_alone(self, uri: str, **arguments: Any) -> dict[str, str]:
        """By slipstream.load, for this rank."""
        return {name: digest(tensor) for name, tensor in slipstream.load(uri, **arguments).items()}

    def load_all(self, uri: str, **arguments: Any) -> dict[str, str]:
        """By slipstream.load."""
        arguments["options"] = slipstream.Options(**arguments.pop("options", {}))
        return {name: digest(tensor) for name, tensor in slipstream.load(uri, distributed=True, **arguments).items()}

    def load_ranges_alone(self, wanted: list[list[Any]]) -> dict[str, str]:
        """By slipstream.stream_ranges, for this rank."""
        with slipstream.stream_ranges([slipstream.ByteRange(*each) for each in wanted]) as found:
            return {str(position): digest(data) for position, data in found}

    def load_ranges(self, wanted: list[list[Any]], options: dict[str, Any] | None = None) -> dict[str, object]:
        """By slipstream.stream_ranges."""
        ranges = [slipstream.ByteRange(*each) for each in wanted]
        how = slipstream.Options(**options or {})
        with slipstream.stream_ranges(ranges, distributed=True, options=how) as found:
            digests = {str(position): digest(data) for position, data in found}
        stats = found.stats()
        return {"ranges": digests, "read": sum(file.bytes for file in stats.files), "received": stats.received_bytes}

    def stream_weights(self, uri: str, skips: str, read_ahead_bytes: int) -> dict[str, str]:
        """As a serving engine is given them by the integration of vLLM, but for tensors whose name has this in it."""
        weights._READ_AHEAD_BYTES = read_ahead_bytes
        return {
            name: digest(tensor)
            for name, tensor in weights.stream_weights(
                uri,
                parse_settings({}),
                lambda name: True,
                "model.",
                lambda *line: None,
                group=dist.group.WORLD,
                skips=lambda name: skips in name,
            )
        }

    def load_into(self, uri: str, shapes: dict[str, list[int]], **arguments: Any) -> dict[str, str]:
        """Into a module with parameters of these names and shapes."""
        module = torch.nn.Module()
        for name, shape in shapes.items():
            module.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
        slipstream.load_into(module, uri, distributed=True, **arguments)
        return {name: digest(parameter.detach()) for name, parameter in module.state_dict().items()}

    def make_group(self, name: str, ranks: list[int]) -> None:
        """Makes a process group of some of the ranks, as a caller would."""
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            assert isinstance(group, dist.ProcessGroup)
            self.groups[name] = group

    def accelerate(self) -> None:
        """From now on this rank takes "cpu" for a device that tensors are copied to."""
        accelerate(setattr)

    def copy_late(self) -> None:
        """From now on what is copied to a device or on it comes late, and in another order."""
        wrap_copiers(self.patch)

    def set_most_ahead(self, nbytes: int) -> None:
        """How much may be on a device that its caller has not taken."""
        staging._MOST_AHEAD_BYTES = nbytes

    def fill_device(self, spares: int) -> None:
        """From now on the device has memory so many times more, and then no more."""

        def allocate(accelerator: Accelerator, nbytes: int) -> torch.Tensor:
            nonlocal spares
            spares -= 1
            if spares < 0:
                raise slipstream.DeviceError(f"{accelerator.device} has no {nbytes:,} bytes left")
            return torch.empty(nbytes, dtype=torch.uint8)

        self.patch.setattr(Accelerator, "allocate", allocate)

    def set_identity(self, name: str) -> None:
        """Lets this rank believe that its device is that one."""
        self.patch.setattr(Accelerator, "identity", name)

    def break_connecting(self, reason: str) -> None:
        """From now on this rank's device cannot be connected with others."""

        def fail(*arguments: object) -> object:
            raise RuntimeError(reason)

        self.patch.setattr(device_group, "_connect", fail)

    def hold_goodbye(self, until: str) -> None:
        """From now on a load that is over here is not, for the others, before there is such a file."""
        say_goodbye = watch.Watch._say_goodbye

        def hold(of: watch.Watch) -> None:
            while not os.path.exists(until):
                time.sleep(0.01)
            say_goodbye(of)

        self.patch.setattr(watch.Watch, "_say_goodbye", hold)

    def mend(self) -> None:
        """Undoes what was changed, but for `accelerate`."""
        self.patch.undo()

    def count_kept_slots(self) -> int:
        """How much page-locked memory waits for the next load."""
        return open_accelerator(torch.device("cpu")).memory.kept_bytes

    def break_copies(self) -> None:
        """From now on nothing can be brought elsewhere from the memory that is received into."""

        def fail(*arguments: object) -> object:
            raise slipstream.DeviceError("the device fell off the bus")

        HostLanding.copy = fail  # type: ignore[assignment,method-assign]

    def load_shard(self, uri: str, rules: dict[str, Any], **arguments: Any) -> dict[str, str]:
        """Its part of each tensor, of a load that is shared."""
        shard = slipstream.Shard(dist.get_rank(), dist.get_world_size(), rules)
        return self.load_all(uri, shard=shard, **arguments)

    def load_shard_into(
        self, uri: str, rules: dict[str, Any], shapes: dict[str, list[int]], **arguments: Any
    ) -> dict[str, str]:
        """The same, into a module."""
        shard = slipstream.Shard(dist.get_rank(), dist.get_world_size(), rules)
        return self.load_into(uri, shapes, shard=shard, **arguments)

    def set_host(self, name: str) -> None:
        """Lets this rank believe that it runs on another host."""
        socket.gethostname = lambda: name

    def set_patience(self, seconds: float) -> None:
        """How long ranks are waited for."""
        meeting.LONGEST_MEETING_S = seconds

    def set_silence(self, seconds: float) -> None:
        """How long a rank may be silent."""
        watch._LONGEST_SILENCE_S = seconds

    def remember(self) -> dict[str, int]:
        """What is left of loads in this process and in the store."""
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("slipstream")]
        return {"threads": len(names), "descriptors": len(os.listdir("/proc/self/fd"))}

    def sum_ranks(self) -> float:
        """A collective of the caller's own, in the default group."""
        number = torch.tensor([float(dist.get_rank() + 1)])
        dist.all_reduce(number)
        return number.item()


def digest(tensor: Any) -> str:
    """Tells two tensors apart by type, shape and bytes."""
    if isinstance(tensor, torch.Tensor):
        head = f"{tensor.dtype} {tuple(tensor.shape)}"
        content = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    else:
        head, content = f"{tensor.dtype} {tensor.shape}", numpy.ascontiguousarray(tensor).tobytes()
    return hashlib.blake2b(
        content, digest_size=12, person=hashlib.blake2b(head.encode(), digest_size=8).digest()
    ).hexdigest()


def answer(member: Member, name: str, arguments: dict[str, Any]) -> dict[str, object]:
    try:
        return {"value": getattr(member, name)(**arguments)}
    except slipstream.SlipstreamError as error:
        return {"error": type(error).__name__, "text": str(error), "rank": getattr(error, "rank", None)}
    except BaseException as error:
        return {"error": type(error).__name__, "text": repr(error)}


def main() -> None:
    rank, size, port = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # by which a crew asks one that hangs where it stands
    store = TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    member = Member()
    print(json.dumps({"value": os.getpid()}), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(answer(member, name, arguments)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
