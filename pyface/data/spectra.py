"""Pictures of the same people in visible light and near infrared: a folder VIS and a folder NIR."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pyface.data.files import paired_files, stem_of
from pyface.data.folder import ImageFolder
from pyface.data.problems import OnProblem, Problem
from pyface.data.sample import Sample
from pyface.errors import ValueRangeError

__all__ = ["NAME_PATTERN", "PairedSpectra", "name_expression", "name_fields"]

NAME_PATTERN = "{identity}_{sample}"

_SPECTRA = ("vis", "nir")
_FIELD = re.compile(r"\{(\w+)\}")


class PairedSpectra(ImageFolder):
    """Pairs of a visible and a near infrared picture, registered to each other, with who is shown.

    An `ImageFolder` whose pictures must have a partner, and whose identities come from the names: by default
    `VIS/000012_003.png` and `NIR/000012_003.png` are sample 3 of person 12. That both show the same face in
    the same place is assumed. The suffixes of partners may differ. Of labels.jsonl and the other files of
    labels the same is read as by `ImageFolder`; an identity in labels.jsonl must be that of the name.

    Columns `identity` and `sample` are whole numbers. Identities that are words are numbered in their order;
    `identity_names` gives the words back.

    Args:
        path: folder or .zip file with VIS and NIR.
        pattern: how a picture is named within VIS or NIR, without suffix: text with {identity} and any other
            fields; one for both, or {"vis": ..., "nir": ...}. Partners agree in all fields. "/" stands for
            folders, as in "{identity}/{session}_{sample}".
        cache: decode all pictures now and keep them in memory.
        on_problem: "stop", or "skip" pairs that cannot be used; `problems` lists them.

    Raises:
        DataError: as `ImageFolder`; with "stop" also a picture whose name does not fit.
        ValueRangeError: a pattern without {identity}.
    """

    identity_names: tuple[str, ...]

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pattern: str | Mapping[str, str] = NAME_PATTERN,
        cache: bool = False,
        on_problem: OnProblem = "stop",
    ) -> None:
        patterns = dict.fromkeys(_SPECTRA, pattern) if isinstance(pattern, str) else dict(pattern)
        if set(patterns) != set(_SPECTRA):
            raise ValueRangeError(
                f'a pattern is text, or {{"vis": ..., "nir": ...}}; got the keys {sorted(patterns)}.'
            )
        self._patterns = {spectrum: name_expression(text) for spectrum, text in patterns.items()}
        self._pattern_texts = patterns
        super().__init__(path, spectra=_SPECTRA, cache=cache, on_problem=on_problem)
        self._name_people()

    def _paired(
        self, names: Sequence[str], spectra: Sequence[str] | None
    ) -> tuple[list[tuple[str, ...]], tuple[str, ...], list[Problem]]:
        odd: set[str] = set()

        def key(spectrum: str, stem: str) -> tuple[str, ...]:
            match = self._patterns[spectrum].fullmatch(stem)
            if match is None:
                odd.add(stem)
                return spectrum, "odd", stem
            return tuple(value for _, value in sorted(match.groupdict().items()))

        rows, chosen, problems = paired_files(names, spectra, self.path, key)
        told = []
        for problem in problems:
            if problem.code == "no-partner" and stem_of(problem.file) in odd:
                wanted = self._pattern_texts[_spectrum_of(problem.file)]
                told.append(Problem(problem.file, None, "name", f"its name is not {wanted}"))
            else:
                told.append(problem)
        return rows, chosen, told

    def _name_people(self) -> None:
        """Columns identity and sample from the names; what labels.jsonl says otherwise is a problem."""
        fields = [name_fields(self._patterns["vis"], files[0]) for files in self._files]
        words = [f["identity"] for f in fields]
        numbered = all(word.isascii() and word.isdigit() for word in words)
        self.identity_names = () if numbered else tuple(sorted(set(words)))
        place = {word: int(word) if numbered else i for i, word in enumerate(sorted(set(words)))}
        identity = np.array([place[word] for word in words], np.int64)
        said = self._annotations.get("identity")
        agree = np.ones(len(self), bool)
        if said is not None and numbered:
            agree = np.asarray(said == identity)
            for row in np.flatnonzero(~agree):
                self.problems.add(
                    self._files[row][0],
                    None,
                    "identity",
                    f"is person {identity[row]} by its name, {said[row]} in labels.jsonl",
                )
            self.problems.settle()
        columns: dict[str, npt.NDArray[np.generic]] = {"identity": identity}
        if all("sample" in f for f in fields):
            samples = [f["sample"] for f in fields]
            whole = all(text.isascii() and text.isdigit() for text in samples)
            columns["sample"] = np.array([int(text) for text in samples] if whole else samples)
        self._annotations = columns | {k: v for k, v in self._annotations.items() if k not in columns}
        self._keep(agree.tolist())

    def _sample(self, index: int) -> Sample:
        sample = super()._sample(index)
        sample.identity = int(self._annotations["identity"][index])
        return sample


def _spectrum_of(name: str) -> str:
    return name.partition("/")[0].lower()


def name_expression(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; each field is one or more characters without "/"."""
    fields = _FIELD.findall(pattern)
    if "identity" not in fields or len(set(fields)) != len(fields):
        raise ValueRangeError(
            f"a pattern has {{identity}} and other fields once each, such as {NAME_PATTERN}; got {pattern!r}."
        )
    parts = _FIELD.split(pattern)  # text, field, text, field, ..., text
    return re.compile(
        "".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    )


def name_fields(expression: re.Pattern[str], name: str) -> dict[str, str]:
    """The fields of a picture's name, which must fit."""
    match = expression.fullmatch(stem_of(name))
    return match.groupdict() if match is not None else {}
