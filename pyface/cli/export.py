"""`pyface export`: a network becomes a file for another runtime, proven equal."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyface.errors import ValueRangeError

if TYPE_CHECKING:
    from pyface.export.artefact import Artefact
    from pyface.export.spec import TensorSpec

_OTHERS = {"tensorrt": ("pyface.cli.export_tensorrt", "Build a TensorRT or TensorRT-RTX engine.")}


class _Formats(click.Group):
    """A click group some of whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_OTHERS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OTHERS:
            command: click.Command = importlib.import_module(_OTHERS[cmd_name][0]).command
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: entry.get_short_help_str() for name, entry in self.commands.items()}
        lines.update({name: line for name, (_, line) in _OTHERS.items()})
        with formatter.section("Commands"):
            formatter.write_dl([(name, lines[name]) for name in self.list_commands(ctx)])


@click.group("export", cls=_Formats)
def command() -> None:
    """Write a network as a file for another runtime.

    Each file is run and compared with the network in float32 torch before it appears; how near it is stands
    in the JSON file beside it. pyface verify compares again.
    """


def _parse_batch(_: click.Context, __: click.Parameter, text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueRangeError(f"--batch must be dynamic or a number from 1 on; got {text!r}")
    return int(text)


def _form_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every format that is written from the same graph."""
    for option in reversed(
        [
            click.argument("network", metavar="NET"),
            click.argument("out", metavar="OUT", type=click.Path(path_type=Path)),
            click.option(
                "--precision",
                default="fp32",
                show_default=True,
                metavar="fp32|fp16|bf16",
                help="What it computes in; inputs and outputs are float32 in any.",
            ),
            click.option("--uint8", is_flag=True, help="Give pictures as uint8 [N, H, W, C]."),
            click.option(
                "--part",
                type=click.Choice(["whole", "mapping", "synthesis"]),
                default="whole",
                show_default=True,
                help="Of a generator: all of it, ws of z, or pictures of ws.",
            ),
            click.option(
                "--inputs",
                type=click.Choice(["z", "ws"]),
                help="What a generator begins with.  [default: z; ws for the synthesis]",
            ),
            click.option(
                "--noise",
                type=click.Choice(["const", "input", "none"]),
                default="const",
                show_default=True,
                help="Of a generator: the network's own, an input of the file, or none.",
            ),
            click.option(
                "--batch",
                default="dynamic",
                show_default=True,
                metavar="dynamic|N",
                callback=_parse_batch,
                help="Rows at a time: any number, or this one.",
            ),
            click.option("--force", is_flag=True, help="Write the file even if it fails its certificate."),
            click.option("--no-certify", is_flag=True, help="Do not run the file and compare it."),
        ]
    ):
        function = option(function)
    return function


@command.command("onnx", short_help="Write an ONNX file of plain operators.")
@_form_options
@click.option("--opset", type=int, help="Of the ONNX file.  [default: 20; 22 for bf16]")
@click.option("--functions", is_flag=True, help="Keep pyface's operations as functions of a domain.")
@click.option(
    "--up-form",
    type=click.Choice(["transposed", "phases"]),
    help="How convolutions double the size.  [default: transposed; phases for bf16]",
)
@click.option("--external-data", is_flag=True, help="Weights in OUT.data; above 2 GB they are always there.")
def export_onnx_file(network: str, out: Path, no_certify: bool, external_data: bool, **options: Any) -> None:
    """Write NET to OUT, an ONNX file.

    NET is a .safetensors file, or the name of a network that comes with pyface, such as demo.
    """
    from pyface.export.onnx import export_onnx

    started = time.monotonic()
    artefact = export_onnx(
        network, out, certify=not no_certify, external_data=True if external_data else None, **options
    )
    _report(artefact, time.monotonic() - started)


@command.command("openvino", short_help="Write an OpenVINO model.")
@_form_options
def export_openvino_model(network: str, out: Path, no_certify: bool, **options: Any) -> None:
    """Write NET to OUT, whose name ends in .xml, and its weights to a .bin file beside it.

    NET is a .safetensors file, or the name of a network that comes with pyface, such as demo. fp16 halves the
    file and computes in float32; bf16 lets CPUs that have bfloat16 compute convolutions in it.
    """
    from pyface.export.openvino import export_openvino

    started = time.monotonic()
    artefact = export_openvino(network, out, certify=not no_certify, **options)
    _report(artefact, time.monotonic() - started)


def _report(artefact: Artefact, seconds: float) -> None:
    spec = artefact.spec
    part = "" if spec.part == "whole" else f", {spec.part}"
    others = [name for name in artefact.files if name != artefact.path.name]
    beside = f" with {', '.join(others)}" if others else ""
    click.echo(
        f"{artefact.path}: {artefact.size / 1e6:.1f} MB{beside}; {spec.architecture}{part} in "
        f"{spec.precision}, opset {spec.opset}, {seconds:.1f} s"
    )
    click.echo(f"  {_ports(spec.inputs)} -> {_ports(spec.outputs)}")
    click.echo(f"  certificate: {certificate_line(artefact.parity)}")


def _ports(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{t.name} {t.dtype} [{', '.join(map(str, t.shape))}]" for t in tensors)


def certificate_line(parity: Mapping[str, Any] | None) -> str:
    """What the certificate of an artefact says, in one line: the worst of all outputs and batches."""
    if parity is None:
        return "none; pyface verify makes one"
    found = [entry for result in parity["results"] for entry in result["measurements"]]
    figures = [entry["agreement"] for entry in found]
    parts = [
        f"largest error {_most(figures, 'max_error'):.2g} and RMSE {_most(figures, 'rmse'):.2g} of the "
        "standard deviation"
    ]
    if any(entry["psnr"] is not None for entry in figures):
        parts.append(f"PSNR {min(e['psnr'] for e in figures if e['psnr'] is not None):.1f} dB")
        parts.append(f"{_most(figures, 'differing'):.2%} of uint8 pixels differ")
    if any(entry["identity_drift"] is not None for entry in found):
        parts.append(f"identity drift {_most(found, 'identity_drift'):.1g}")
    runtimes = ", ".join(
        f"{result['runtime']} {result['versions'].get(result['runtime'], '')}".strip()
        for result in parity["results"]
    )
    batches = ", ".join(map(str, sorted({entry["batch"] for entry in found})))
    verdict = "passed" if parity["passed"] else "FAILED"
    return f"{verdict} in {runtimes}, batches {batches}: {'; '.join(parts)}"


def _most(entries: list[Any], key: str) -> float:
    """The largest; infinite where one is not finite, which JSON writes as null."""
    return max(float("inf") if entry[key] is None else float(entry[key]) for entry in entries)
