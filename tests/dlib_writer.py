"""Writes networks in dlib's file format, as a truth to test its reader against."""

from __future__ import annotations

import numpy as np


def integer(value):
    data = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), "little")
    return bytes([len(data) | (0x80 if value < 0 else 0)]) + data


def number(value):
    mantissa, exponent = np.frexp(np.float32(value))
    return integer(int(mantissa * 2**24)) + integer(int(exponent) - 24)


def text(value):
    return integer(len(value)) + value.encode()


def tensor(values):
    values = np.asarray(values, "<f4")
    return b"".join(map(integer, (2, *values.shape))) + values.tobytes()


def alias(*shape):
    return integer(1) + b"".join(map(integer, shape))


NOTHING = tensor(np.zeros((0, 0, 0, 0)))


def con(weight, bias, stride, padding):
    values = np.concatenate([weight.reshape(-1), bias]).reshape(-1, 1, 1, 1)
    sizes = (len(weight), *weight.shape[2:], stride, stride, padding, padding)
    parts = [text("con_4"), tensor(values), *map(integer, sizes), alias(*weight.shape)]
    return b"".join([*parts, alias(1, len(bias), 1, 1), *[number(1.0)] * 3, number(0.0)])


def affine(scale, shift):
    values = np.concatenate([scale, shift]).reshape(-1, 1, 1, 1)
    shape = alias(1, len(scale), 1, 1)
    return text("affine_") + tensor(values) + shape + shape + integer(0)


def pool(name, window, stride):
    return text(name) + b"".join(map(integer, (window, window, stride, stride, 0, 0)))


def full(weight, bias=None):
    inputs, outputs = weight.shape
    values = weight.reshape(-1) if bias is None else np.concatenate([weight.reshape(-1), bias])
    shape = alias(0, 0, 0, 0) if bias is None else alias(1, outputs, 1, 1)
    parts = [text("fc_2"), integer(outputs), integer(inputs), tensor(values.reshape(-1, outputs, 1, 1))]
    return b"".join(
        [*parts, alias(inputs, outputs, 1, 1), shape, integer(1), *[number(1.0)] * 3, number(0.0)]
    )


def network(layers, size, mean=(122.782, 117.001, 104.298), tags=0, loss="loss_metric_2"):
    """The file of layers from input to output, with `tags` tags around every one but the first."""
    wrappers = []
    for _ in layers[1:]:
        wrappers += [2] + [1] * tags
    head = [integer(1), text(loss), number(0.04), number(0.6), *map(integer, wrappers), integer(3)]
    entrance = [text("input_rgb_image_sized"), *map(number, mean), integer(size), integer(size)]
    body = []
    for i, layer in enumerate(layers):
        body += [layer, b"110", NOTHING * 3, integer(1) if i == 0 else b""]
    return b"".join([*head, *entrance, *body])
