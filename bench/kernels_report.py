"""Tables of a run of the kernel ladders (bench/kernels/run.py), for bench/RESULTS.md."""

from __future__ import annotations

from typing import Any

__all__ = ["tables"]


def tables(document: dict[str, Any]) -> str:
    """Markdown of a document as bench/kernels/schema.json describes it: one table a ladder.

    A version that was not measured says so; ratios are to version 1 of the same run.
    """
    parts = [_table(ladder) for ladder in document["ladders"]]
    if document["skipped"]:
        parts.append(
            "\n".join(f"- {entry['name']}: {_first_line(entry['reason'])}" for entry in document["skipped"])
        )
    return "\n\n".join(parts)


def _table(ladder: dict[str, Any]) -> str:
    versions = ladder["versions"]
    first = versions[0]["ms"]
    rows = [
        f"**{ladder['kernel']}** ({ladder['name']}, {ladder['target']}), {versions[0]['size']}:",
        "",
        "| version | what | type | ms | faster than 1 | GB/s | GFLOP/s | largest error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for version in versions:
        measured = version["ms"] is not None
        cells = [
            f"{version['version']}, **shipped**" if version["shipped"] else str(version["version"]),
            version["what"].replace("|", "\\|"),
            version["dtype"],
            f"{version['ms']:.4g}" if measured else "not measured",
            f"{first / version['ms']:.3g}x" if measured and first else "-",
            _rounded(version["gb_per_s"]),
            _rounded(version["gflop_per_s"]),
            "-" if version["max_error"] is None else f"{version['max_error']:.2g}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]
