"""CPU kernels. Pointers are addresses (0: absent); `where` is the number of threads (1 to 4096)."""

def bias_act(
    x: int,
    bias: int,
    y: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
    where: int,
) -> None: ...
def bias_act_grad(
    dy: int,
    ref: int,
    bias: int,
    dx: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
    where: int,
) -> None: ...
def upfirdn2d(
    x: int,
    filter: int,
    y: int,
    dtype: int,
    n: int,
    c: int,
    in_h: int,
    in_w: int,
    out_h: int,
    out_w: int,
    channels_last: bool,
    separable: bool,
    flip: bool,
    filter_h: int,
    filter_w: int,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x0: int,
    pad_y0: int,
    gain: float,
    where: int,
) -> None: ...
def modulate(
    x: int, scale: int, y: int, dtype: int, n: int, c: int, hw: int, channels_last: bool, where: int
) -> None: ...
def demodulate(
    weight_sq: int,
    styles: int,
    demod: int,
    dtype: int,
    n: int,
    out_channels: int,
    in_channels: int,
    eps: float,
    where: int,
) -> None: ...
def conv_epilogue(
    x: int,
    demod: int,
    noise: int,
    bias: int,
    next_style: int,
    y: int,
    dtype: int,
    n: int,
    c: int,
    hw: int,
    channels_last: bool,
    noise_per_sample: bool,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
    where: int,
) -> None: ...
def pack_weight(
    from_: int,
    to: int,
    dtype: int,
    out_channels: int,
    in_channels: int,
    taps: int,
    transposed: bool,
    flip: bool,
    gain: float,
    where: int,
) -> None: ...
def unpack_weight(
    from_: int,
    to: int,
    dtype: int,
    out_channels: int,
    in_channels: int,
    taps: int,
    transposed: bool,
    flip: bool,
    gain: float,
    where: int,
) -> None: ...
def isa() -> str: ...
def isa_available() -> list[str]: ...
def face_render(
    params: int,
    vis: int,
    nir: int,
    segmentation: int,
    depth: int,
    landmarks: int,
    n: int,
    size: int,
    where: int,
) -> None: ...
def face_parameters() -> list[tuple[str, float, float, float, str]]: ...
def pack_styled_conv(
    weight: int, packed: int, dtype: int, out_channels: int, in_channels: int, up: int, where: int
) -> None: ...
def block_activations(
    x: int, scale: int, y: int, dtype: int, n: int, c: int, h: int, w: int, shared: bool, where: int
) -> None: ...
def styled_number_bytes(dtype: int) -> int: ...
def blocked_bytes(dtype: int, n: int, channels: int, h: int, w: int) -> int: ...

STYLED_CONV_BYTES: int
LAYER_STYLE_BYTES: int

def styled_convs_workspace(layers: int, count: int, where: int) -> int: ...
def styled_convs(layers: int, count: int, workspace: int, where: int) -> None: ...
def layer_styles(layers: int, count: int, ws: int, n: int, num_ws: int, w_dim: int, where: int) -> None: ...
def fingerprints(tensors: int, count: int, results: int) -> None: ...
