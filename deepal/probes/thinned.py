"""A network under dropout is a smaller network: what is dropped is taken out of its weights, not multiplied by zero."""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional

Stays = Callable[[int, float, torch.Size, torch.device], Tensor]
"""Which units stay: (number of the dropout layer, p, units, device) to (K, *units)."""

Product = nn.Linear | nn.Conv2d
Dropout = nn.Dropout | nn.Dropout2d
_KEEPS_ZERO = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class Thinned:
    """A chain of layers, from images to logits, under K draws of dropout.

    Up to the first product (a linear layer or a convolution) behind the first dropout, everything is computed once: masks
    pass through pooling, and through what leaves zero alone. Then, for each draw, products are computed without the inputs
    that were dropped before them and without the outputs that are dropped behind them. The first one is of inputs that all
    draws share: where it keeps most of them, it is applied once to all, and what a draw drops is subtracted; where it is a
    convolution of channels that are dropped as a whole, what each of them adds is computed once, and summed for each draw.

    Args:
        layers: the chain, of which `of` has found that it can be thinned.
        stays: the masks.
    """

    def __init__(self, layers: Sequence[nn.Module], stays: Stays) -> None:
        first = next(i for i, layer in enumerate(layers) if _drops(layer))
        self.before = layers[:first]
        self.begin = list(takewhile(lambda layer: not isinstance(layer, Product), layers[first:]))
        self.blocks = list(_blocks(layers[first + len(self.begin) :]))
        self.stays = stays
        self.numbers = {each: i for i, each in enumerate(layer for layer in layers if isinstance(layer, Dropout))}
        self._first: _Shared | _Summed | None = None  # not known before it was read how wide its inputs are
        self._rows: dict[Product, list[Tensor]] = {}  # of each product's outputs those that stay, by draw

    @classmethod
    def of(cls, layers: Sequence[nn.Module], stays: Stays) -> "Thinned | None":
        """The chain, thinned; None where it drops nothing, or has layers that are not known to bear it."""
        layers = _flattened_before_dropped(layers)
        first = next((i for i, layer in enumerate(layers) if _drops(layer)), len(layers))
        if not any(isinstance(layer, Product) for layer in layers[first:]) or len({*layers}) < len(layers):
            return None
        flat = any(isinstance(layer, nn.Flatten | nn.Linear) for layer in layers[:first])
        convolved = False
        for layer in layers[first:]:
            of_maps = isinstance(layer, (nn.Dropout2d, nn.Conv2d, *_POOLS))
            of_rows = isinstance(layer, nn.Dropout | nn.Linear)
            if not _is_known(layer) or (of_maps and flat) or (of_rows and not flat):
                return None
            if isinstance(layer, nn.Dropout) and convolved:  # of a convolution's flattened outputs, one by one
                return None
            flat = flat or isinstance(layer, nn.Flatten)
            convolved = isinstance(layer, nn.Conv2d) or (convolved and not isinstance(layer, nn.Linear))
        return cls(layers, stays)

    def __call__(self, images: Tensor, draws: int) -> Tensor:
        """Logits (B, K, C)."""
        shared = images
        for layer in self.before:
            shared = layer(shared)
        widths = [shared.shape[1]]
        for layer in self.begin:
            shared = _behind(shared, layer)
            widths.append(shared.shape[1])
        if self._first is None:
            stay = shared.new_ones(draws, widths[0], dtype=torch.bool)
            for layer, width in zip(self.begin, widths[1:], strict=True):
                stay = self._passed_on(stay, layer)
                stay = stay.repeat_interleave(width // stay.shape[1], 1)  # of channels that are flattened, each pixel
            kept = self._kept(*self.blocks[0], draws)
            way = _Summed if _Summed.pays(self.blocks[0][0], stay, kept) else _Shared
            self._first = way(*self.blocks[0], stay, kept)
        return torch.cat([self._read(some, draws, self._first) for some in shared.split(self._first.fit(shared))])

    def _read(self, shared: Tensor, draws: int, way: "_Shared | _Summed") -> Tensor:
        """Logits (B, K, C)."""
        first = way.of(shared)
        return torch.stack([self._draw(*first(k), k, draws) for k in range(draws)], 1)

    def _draw(self, values: Tensor, rows: Tensor, k: int, draws: int) -> Tensor:
        """Logits (B, C) of a draw. Args: values: of the first block; rows: which of them they are."""
        for product, after in self.blocks[1:]:
            inputs, rows = rows, self._outputs(product, after, draws)[k]
            values, rows = _on(_apply(product, values, inputs, rows), rows, after)
        return values

    def _outputs(self, product: Product, after: Sequence[nn.Module], draws: int) -> list[Tensor]:
        """The outputs of a product that stay, by draw."""
        if product not in self._rows:
            self._rows[product] = _rows(self._kept(product, after, draws))
        return self._rows[product]

    def _kept(self, product: Product, after: Sequence[nn.Module], draws: int) -> Tensor:
        """Which outputs of a product stay, (K, outputs)."""
        stay = product.weight.new_ones(draws, len(product.weight), dtype=torch.bool)
        for layer in after:
            stay = self._passed_on(stay, layer)
        return stay

    def _passed_on(self, stay: Tensor, layer: nn.Module) -> Tensor:
        """What stays behind a layer, (K, width)."""
        if not isinstance(layer, Dropout) or layer.p == 0:
            return stay
        units = torch.Size([stay.shape[1], 1, 1] if isinstance(layer, nn.Dropout2d) else [stay.shape[1]])
        return stay & self.stays(self.numbers[layer], layer.p, units, stay.device).flatten(1)


class _Shared:
    """The first product behind a dropout and what follows, of inputs that all draws share.

    Args: product: the layer; after: those up to the next product; stay: (K, width), which of its inputs stay; kept: (K,
        outputs), which of its outputs do.
    """

    def __init__(self, product: Product, after: Sequence[nn.Module], stay: Tensor, kept: Tensor) -> None:
        self.product, self.after, self.outputs = product, after, _rows(kept)
        self.subtracts = bool(stay.float().mean() > 0.5)
        self.used = _rows(~stay if self.subtracts else stay)

    def fit(self, shared: Tensor) -> int:
        """How many of these images are computed together."""
        return max(len(shared), 1)

    def of(self, shared: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """A function from k to the values of draw k, and which of all they are. Args: shared: inputs (B, width, ...)."""
        product = self.product
        whole = _product(product, shared, product.weight, product.bias) if self.subtracts else None
        # rows of a transposed matrix are gathered several times faster than columns
        turned = shared.T.contiguous() if shared.ndim == 2 else None

        def of_draw(k: int) -> tuple[Tensor, Tensor]:
            used, outputs = self.used[k], self.outputs[k]
            inputs = turned[used].T if turned is not None else shared.index_select(1, used)
            if whole is None:
                return _on(_apply(product, inputs, used, outputs), outputs, self.after)
            weight = product.weight[outputs].index_select(1, used)
            return _on(whole.index_select(1, outputs) - _product(product, inputs, weight, None), outputs, self.after)

        return of_draw


class _Summed:
    """The same of a convolution: an output of a draw is the sum of what the channels that stay add to it, and that is one
    matrix product for all draws that keep this output. Args: as above."""

    def __init__(self, product: nn.Conv2d, after: Sequence[nn.Module], stay: Tensor, kept: Tensor) -> None:
        self.product, self.outputs = product, _rows(kept)
        self.maps = list(takewhile(lambda layer: not isinstance(layer, nn.Flatten), after))
        self.after = after[len(self.maps) :]
        self.draws = _rows(kept.T)
        places = kept.cumsum(1) - 1
        self.places = [places[draws, output] for output, draws in enumerate(self.draws)]
        self.stay = [stay[draws].T.to(product.weight.dtype) for draws in self.draws]

    @staticmethod
    def pays(product: Product, stay: Tensor, kept: Tensor) -> bool:
        """Whether that is less work, by a margin, than convolutions without the channels that do not stay. (On a GPU many
        small products are no gain.)"""
        if isinstance(product, nn.Linear) or isinstance(product.padding, str) or stay.device.type != "cpu":
            return False
        taps, draws = product.weight[0, 0].numel(), len(stay)
        into, out_of = float(stay.float().mean()), float(kept.float().mean())
        return 4 * (taps + draws * out_of) < draws * min(into, 1 - into) * out_of * taps

    def fit(self, shared: Tensor) -> int:
        """How many of these images are computed together."""
        return max(_SUMS // max(shared[0, 0].numel() * self.product.out_channels * len(self.outputs), 1), 1)

    def of(self, shared: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """A function from k to the values of draw k, and which of all they are. Args: shared: inputs (B, width, ...)."""
        most = max(map(len, self.outputs))
        some = max(_SUMMANDS // (shared[0].numel() * self.product.out_channels), 1)
        kept = torch.empty(0)
        for start in range(0, len(shared), some):
            for draws, places, maps in self._sums(shared[start : start + some]):
                if not kept.numel():
                    kept = maps.new_empty(len(self.outputs), most, len(shared), *maps.shape[2:])
                kept[draws, places, start : start + some] = maps
        return lambda k: _on(kept[k, : len(self.outputs[k])].transpose(0, 1), self.outputs[k], self.after)

    def _sums(self, shared: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each output the draws that keep it, the place that it has among what they keep, and (draws, B, height, width)
        behind what follows, up to where maps are flattened."""
        product = self.product
        patches = functional.unfold(shared, product.kernel_size, product.dilation, product.padding, product.stride)
        patches = patches.unflatten(1, (shared.shape[1], -1)).permute(1, 2, 0, 3).flatten(2)
        weight = product.weight.flatten(2).transpose(0, 1).contiguous()
        added = torch.bmm(weight, patches)  # (channels, outputs, B * positions)
        height = _height(product, shared)
        for output, (draws, places, stay) in enumerate(zip(self.draws, self.places, self.stay, strict=True)):
            if not len(draws):
                continue
            sums = added[:, output].T @ stay
            if product.bias is not None:
                sums += product.bias[output]
            maps = sums.view(len(shared), height, -1, len(draws)).permute(0, 3, 1, 2)  # draws in the place of channels
            for layer in self.maps:
                maps = _behind(maps, layer)
            turned = maps.permute(0, 2, 3, 1).flatten(0, 2).T.contiguous()
            yield draws, places, turned.view(len(draws), len(shared), *maps.shape[2:])


_SUMMANDS, _SUMS = 2**23, 2**26  # what channels add, and what they add up to, that is held at a time


def _on(values: Tensor, rows: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Values behind these layers, none of them a product, and which of all they are."""
    for layer in layers:
        channels = values.shape[1]
        values = _behind(values, layer)
        rows = _pixels(rows, values.shape[1] // max(channels, 1))
    return values, rows


def _behind(values: Tensor, layer: nn.Module) -> Tensor:
    """Values that stay, behind a layer: dropout scales them."""
    return values * _scale(layer) if isinstance(layer, Dropout) else layer(values)


def _apply(product: Product, values: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """A product of some inputs to some outputs."""
    weight = product.weight[outputs].index_select(1, inputs)
    return _product(product, values, weight, None if product.bias is None else product.bias[outputs])


def _product(product: Product, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(product, nn.Linear):
        return functional.linear(values, weight, bias)
    weight = weight.contiguous(memory_format=torch.channels_last)  # pooling what comes out is ten times faster so
    return functional.conv2d(values, weight, bias, product.stride, product.padding, product.dilation)


def _height(product: nn.Conv2d, shared: Tensor) -> int:
    """Of what a convolution says."""
    reach = product.dilation[0] * (product.kernel_size[0] - 1) + 1
    return (shared.shape[2] + 2 * product.padding[0] - reach) // product.stride[0] + 1


def _rows(stay: Tensor) -> list[Tensor]:
    return [each.nonzero().squeeze(1) for each in stay]


def _pixels(channels: Tensor, size: int) -> Tensor:
    """The features that channels of so many pixels become."""
    return (channels.unsqueeze(1) * size + torch.arange(size, device=channels.device)).flatten() if size > 1 else channels


def _blocks(layers: Sequence[nn.Module]) -> Iterator[tuple[Product, list[nn.Module]]]:
    """Each product with the layers up to the next."""
    starts = [i for i, layer in enumerate(layers) if isinstance(layer, Product)]
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        product = layers[start]
        assert isinstance(product, Product)
        yield product, list(layers[start + 1 : end])


def _flattened_before_dropped(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The same chain with maps flattened before their units are dropped, not after."""
    ordered = list(layers)
    for i in range(len(ordered) - 1, 0, -1):
        if isinstance(ordered[i], nn.Flatten) and isinstance(ordered[i - 1], nn.Dropout):
            ordered[i - 1], ordered[i] = ordered[i], ordered[i - 1]
    return ordered


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return type(layer) in (*_KEEPS_ZERO, *_POOLS, nn.Dropout, nn.Dropout2d, nn.Linear)


def _drops(layer: nn.Module) -> bool:
    return isinstance(layer, Dropout) and layer.p > 0


def _scale(layer: Dropout) -> float:
    """What dropout multiplies by what stays."""
    return 1 / (1 - layer.p) if layer.p < 1 else 0.0
