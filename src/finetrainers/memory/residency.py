"""Which components of a model are on the device. Nothing else moves a module between device and host."""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.config import MemoryConfig
from finetrainers.memory.quantize.compress import compress_text_encoders, compressing
from finetrainers.memory.shard_encoders import Sharers, is_sharded, load_shared
from finetrainers.memory.stream import stream_blocks
from finetrainers.memory.techniques import ToHost
from finetrainers.memory.waiting import NOTHING, component_tensors, to_device, to_host, unchanged, wait_in_files
from finetrainers.models import Model
from finetrainers.models.blocks import named_blocks
from finetrainers.models.vae import set_up_vae


class Residency:
    """Loads the components of a model, lets those that work be on the device alone, and parks the others on the host.

    Text encoders, the VAE, image encoders and further experts never sit beside the denoiser that trains: it makes way for
    them, and comes back after.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        *,
        keeps: Collection[str] = (),
        experts: MemoryConfig | None = None,
        shares: Callable[[], Sharers] | None = None,
    ) -> None:
        """Begin with nothing on the device.

        Args:
            model: Whose components they are.
            device: Where they work.
            keeps: Components that are loaded once; all others are whenever they work.
            experts: Says how weights of further experts rest and which of their blocks stay on the device; plainly if None.
            shares: Says which processes hold text encoders together; each has them whole if None.
        """
        self._model, self.device, self._keeps = model, device, frozenset(keeps)
        self._experts = MemoryConfig() if experts is None else experts
        self.share: Callable[[nn.Module], None] = lambda _: None
        """Lets processes share what a further expert computes, once it is loaded."""
        self._shares = shares
        self._loaded: dict[str, Any] = {}
        self._parked: dict[str, frozenset[str]] = {}
        # Frozen weights of what is loaded, as its files have them: they are read once more, and never copied to the host.
        self._mapped: dict[str, Mapping[str, Tensor]] = {}
        # Of what is on the host: the names of the tensors that it has on the device when it works.
        self._home: frozenset[str] = frozenset()

    @property
    def shares_encoders(self) -> bool:
        """Whether several processes hold the text encoders together, and have to ask them together."""
        return self._shares is not None

    @property
    def on_device(self) -> frozenset[str]:
        """Components that are on the device now."""
        return frozenset(self._loaded) - frozenset(self._parked)

    def adopt(self, denoisers: Mapping[str, nn.Module]) -> None:
        """Take what trains or generates, by its components' names: on the device, and there whenever nothing else works."""
        self._loaded |= denoisers
        self._home = frozenset(denoisers)

    @contextmanager
    def alone(self, *names: str) -> Iterator[dict[str, Any]]:
        """Have components on the device, and nothing else, while the body runs; yield them by name."""
        if self.on_device.issuperset(names):
            yield {name: self._loaded[name] for name in names}  # the body of another that has them
            return
        self._let_be(names)
        components = {name: self._loaded[name] for name in names}
        try:
            yield components
        finally:
            components.clear()  # so that nothing holds what is dropped now
            self._let_be(self._home)

    @contextmanager
    def drawing(self) -> Iterator[dict[str, Any]]:
        """Yield all that generates, by component: each is on the device alone while it is asked, else the denoisers are."""
        model = self._model
        denoisers, trained = (*model.denoisers.trained, *model.denoisers.frozen), self._home
        others = ("vae", *model.image_components)
        for name in (*model.denoisers.frozen, *others):
            self._load(name)
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.callback(self._return_to, trained)
            for name in denoisers if model.denoisers.frozen else ():
                hook = self._loaded[name].register_forward_pre_hook(lambda *_, name=name: self._return_to({name}))
                stack.callback(hook.remove)
            yield {name: self._loaded[name] for name in (*denoisers, *others)}

    def _return_to(self, names: Collection[str]) -> None:
        """Let other denoisers be those that are on the device while nothing else works."""
        if self._home != frozenset(names):
            self._home = frozenset(names)
            self._let_be(names)

    def _let_be(self, names: Collection[str]) -> None:
        """Let these be on the device and no others: first make room, then bring."""
        for name in self.on_device.difference(names):
            is_parted = is_sharded(self._loaded[name])  # loaded again: a part of each layer has no place on the host
            if name in self._model.text_components and (is_parted or name not in self._keeps):
                self._drop(name)
                free_memory()
                continue
            self._parked[name] = self._park(name, self._loaded[name])
        self._forget(names)
        for name in names:
            self._load(name)
            if name in self._parked:
                to_device(self._loaded[name], self._parked.pop(name), self.device, self._mapped.get(name, NOTHING))

    def _park(self, name: str, component: Any) -> frozenset[str]:
        """Take a component off the device, but for what has a copy in its files; return the names of what it had there."""
        denoisers = (*self._model.denoisers.trained, *self._model.denoisers.frozen)
        if name in denoisers and name not in self._mapped and self.device.type != "cpu":
            self._mapped[name] = unchanged(component, self._model.pretrained.mapped_weights(name))
        return to_host(component, self.device, self._mapped.get(name, NOTHING))

    def _forget(self, but: Collection[str] = ()) -> None:
        """Drop what is on the host and not kept."""
        used = {*but, *self._home, *self._keeps, *self._model.denoisers.trained}
        dropped = self._parked.keys() - used
        for name in dropped:
            self._drop(name)
        if dropped:
            free_memory()

    def _drop(self, name: str) -> None:
        del self._loaded[name]
        for own in (self._parked, self._mapped):
            own.pop(name, None)

    def _load(self, name: str) -> None:
        """Load a component onto the host, if it is not loaded."""
        if name in self._loaded:
            return
        if name in self._model.denoisers.frozen:
            component = self._load_expert(name)
        elif name in self._model.text_components:
            component = self._load_text(name)
        else:
            component = self._load_frozen(name)
        if name == "vae":
            set_up_vae(component, self._model.pretrained)
            component.encode, component.decode = (self._visited(name, own) for own in (component.encode, component.decode))
        elif name in self._model.image_components and isinstance(component, nn.Module):
            component.forward = self._visited(name, component.forward)
        self._loaded[name] = component
        self._parked[name] = frozenset(component_tensors(component))

    def _load_frozen(self, name: str) -> Any:
        """Load what does not change; on the way to another device than the host, one tensor at a time is read and cast."""
        pretrained = self._model.pretrained
        if self.device.type == "cpu" or not pretrained.has_weights(name):
            return pretrained.load(name)
        return self._load_waiting(name)

    def _load_waiting(self, name: str) -> nn.Module:
        stored = self._model.pretrained.load_stored(name)
        self._mapped[name] = stored.mapped
        return wait_in_files(stored)

    def _load_text(self, name: str) -> Any:
        """Load a text encoder or its tokenizer; what is compressed or shared is so on the device, which is free by now."""
        pretrained = self._model.pretrained
        if self._shares is not None and pretrained.has_weights(name):
            return load_shared(lambda: pretrained.load_stored(name).network, pretrained.load_empty(name), self._shares())
        component = self._load_frozen(name)
        mapped = self._mapped.get(name, NOTHING)

        def bring(layer_name: str, layer: nn.Module) -> None:
            own = {key: mapped.get(f"{layer_name}.{key}", weight) for key, weight in layer.named_parameters()}
            to_device(layer, own, self.device, own)

        compress_text_encoders([component], pretrained.memory.text_encoder_weights, self.device, bring)
        return component

    def _load_expert(self, name: str) -> Any:
        """Load an expert onto the host by way of the device, where it will take no more than one that trains."""
        blocks, resident = self._model.adapter.blocks, self._experts.resident_blocks
        settle = ToHost(blocks, 0, compressing(self._experts.weights, blocks))
        expert = self._model.pretrained.load_denoiser(name, self.device, settle=settle)
        self._park(name, expert)
        self.share(expert)
        if isinstance(resident, int):
            stream_blocks(list(named_blocks(expert, blocks).values()), self.device, resident=resident)
        return expert

    def _visited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A method of one component, which has the device for itself while it runs."""

        @wraps(function)
        def visited(*arguments: Any, **named: Any) -> Any:
            with self.alone(name):
                placed = [a.to(self.device) if isinstance(a, Tensor) else a for a in arguments]
                return function(*placed, **named)

        return visited


def free_memory() -> None:
    """Give back what was just dropped, so that the next model finds room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
