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
    that were dropped before them and without the outputs that are dropped behind them. Where the first one keeps most of
    its inputs, it is applied once to all of them, and what a draw drops is subtracted.

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
        self._first: _First | None = None  # not known before it was read how wide its inputs are
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
            shared = shared * _scale(layer) if isinstance(layer, Dropout) else layer(shared)
            widths.append(shared.shape[1])
        if self._first is None:
            stay = shared.new_ones(draws, widths[0], dtype=torch.bool)
            for layer, width in zip(self.begin, widths[1:], strict=True):
                stay = self._passed_on(stay, layer)
                stay = stay.repeat_interleave(width // stay.shape[1], 1)  # of channels that are flattened, each pixel
            self._first = _First(self.blocks[0][0], stay)
        first = self._first.of(shared)
        return torch.stack([self._draw(k, draws, first) for k in range(draws)], 1)

    def _draw(self, k: int, draws: int, first: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Logits (B, C) of a draw."""
        values, rows = torch.empty(0), torch.empty(0)
        for number, (product, after) in enumerate(self.blocks):
            inputs, rows = rows, self._outputs(product, after, draws)[k]
            values = _apply(product, values, inputs, rows) if number else first(k, rows)
            for layer in after:
                channels = values.shape[1]
                values = values * _scale(layer) if isinstance(layer, Dropout) else layer(values)
                rows = _pixels(rows, values.shape[1] // max(channels, 1))
        return values

    def _outputs(self, product: Product, after: Sequence[nn.Module], draws: int) -> list[Tensor]:
        """The outputs of a product that stay, by draw."""
        if product not in self._rows:
            stay = product.weight.new_ones(draws, len(product.weight), dtype=torch.bool)
            for layer in after:
                stay = self._passed_on(stay, layer)
            self._rows[product] = _rows(stay)
        return self._rows[product]

    def _passed_on(self, stay: Tensor, layer: nn.Module) -> Tensor:
        """What stays behind a layer, (K, width)."""
        if not isinstance(layer, Dropout) or layer.p == 0:
            return stay
        units = torch.Size([stay.shape[1], 1, 1] if isinstance(layer, nn.Dropout2d) else [stay.shape[1]])
        return stay & self.stays(self.numbers[layer], layer.p, units, stay.device).flatten(1)


class _First:
    """The first product behind a dropout, of inputs that all draws share.

    Args: product: the layer; stay: (K, width), which of its inputs stay.
    """

    def __init__(self, product: Product, stay: Tensor) -> None:
        self.product = product
        self.subtracts = bool(stay.float().mean() > 0.5)
        self.used = _rows(~stay if self.subtracts else stay)

    def of(self, shared: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A function from (k, outputs) to these outputs of draw k. Args: shared: the inputs (B, width, ...)."""
        product = self.product
        whole = _product(product, shared, product.weight, product.bias) if self.subtracts else None
        # rows of a transposed matrix are gathered several times faster than columns
        turned = shared.T.contiguous() if shared.ndim == 2 else None

        def of_draw(k: int, outputs: Tensor) -> Tensor:
            used = self.used[k]
            inputs = turned[used].T if turned is not None else shared.index_select(1, used)
            if whole is None:
                return _apply(product, inputs, used, outputs)
            weight = product.weight[outputs].index_select(1, used)
            return whole.index_select(1, outputs) - _product(product, inputs, weight, None)

        return of_draw


def _apply(product: Product, values: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """A product of some inputs to some outputs."""
    weight = product.weight[outputs].index_select(1, inputs)
    return _product(product, values, weight, None if product.bias is None else product.bias[outputs])


def _product(product: Product, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(product, nn.Linear):
        return functional.linear(values, weight, bias)
    weight = weight.contiguous(memory_format=torch.channels_last)  # pooling what comes out is ten times faster so
    return functional.conv2d(values, weight, bias, product.stride, product.padding, product.dilation)


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
