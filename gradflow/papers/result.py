"""A regenerated figure: the picture, its data, its claims and where they come from; files of all four."""

from __future__ import annotations

import base64
import io
import json
import os
from html import escape
from pathlib import Path
from typing import Any

from gradflow.papers.claim import Claim

DPI = 110
ENDINGS = (".png", ".pdf", ".nc", ".json")


class Result:
    """A figure of a paper with its data and claims.

    Attributes
    ----------
    figure : matplotlib Figure
        The picture; of a result that was loaded, the stored image.
    data : xarray Dataset
        What is drawn.
    claims : list of Claim
        What was checked.
    provenance : dict
        The call, settings, seeds, versions, commit, caption and citation.
    loaded : bool
        Whether it was read from files instead of computed.

    Examples
    --------
    >>> import gradflow as gf
    >>> result = gf.reproduce("weight-norm-diagonal", figure="loss-vs-time", size="small", out=None)
    >>> result.passed, result.loaded
    (True, False)
    """

    def __init__(self, figure, data, claims: list[Claim], provenance: dict, *, picture: bytes | None = None):
        self._figure, self.data, self.claims, self.provenance = figure, data, claims, provenance
        self._picture = picture

    @property
    def loaded(self) -> bool:
        """Whether it was read from files."""
        return self._picture is not None

    @property
    def figure(self) -> Any:
        """The matplotlib figure."""
        if self._figure is None and self._picture is not None:
            self._figure = _image_as_figure(self._picture)
        return self._figure

    @property
    def passed(self) -> bool:
        """Whether all claims hold."""
        return all(claim.passed for claim in self.claims)

    @property
    def title(self) -> str:
        """Paper and figure."""
        return f"{self.provenance['paper']} / {self.provenance['figure']}"

    def save(self, stem) -> list[Path]:
        """Write PNG, PDF, netCDF and JSON next to each other, each with its provenance; the JSON last.

        Parameters
        ----------
        stem : path
            Of the files, without their endings.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        facts = json.dumps(self.provenance)
        credit = {"Title": self.title, "Author": self.provenance["citation"]}
        png = {**credit, "Software": "gradflow", "Description": facts}
        pdf = {**credit, "Creator": "gradflow", "Subject": self.provenance["call"], "Keywords": facts}
        stored = self.data.assign_attrs(provenance=facts, title=self.title)
        record = {"provenance": self.provenance, "claims": [claim.to_dict() for claim in self.claims]}
        text = json.dumps(record, indent=1) + "\n"
        writers = {
            ".png": lambda path: _write_png(self.figure, path, png),
            ".pdf": lambda path: self.figure.savefig(path, format="pdf", metadata={**pdf, "CreationDate": None}),
            ".nc": lambda path: stored.to_netcdf(path, engine="h5netcdf"),
            ".json": lambda path: path.write_text(text),
        }
        return [_written(stem.with_name(stem.name + ending), write) for ending, write in writers.items()]

    @classmethod
    def load(cls, stem) -> Result:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        stem : path
            Of the files, without their endings.

        Raises
        ------
        FileNotFoundError
            If one is missing.
        """
        import xarray

        png, _, data, record = (Path(f"{stem}{ending}") for ending in ENDINGS)
        stored = json.loads(record.read_text())
        with xarray.open_dataset(data, engine="h5netcdf", decode_times=False) as opened:
            dataset = opened.load()
        claims = [Claim.from_dict(claim) for claim in stored["claims"]]
        return cls(None, dataset, claims, stored["provenance"], picture=png.read_bytes())

    def __repr__(self):
        count = sum(claim.passed for claim in self.claims)
        loaded = ", loaded from files" if self.loaded else ""
        lines = [f"{self.title}: {count} of {len(self.claims)} claims hold{loaded}"]
        return "\n".join(lines + [f"  {claim}" for claim in self.claims])

    def _repr_html_(self):
        picture = self._picture
        if picture is None:
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format="png", dpi=DPI)
            picture = buffer.getvalue()
        image = base64.b64encode(picture).decode()
        return f'<img src="data:image/png;base64,{image}"/><pre>{escape(repr(self))}</pre>'


def _write_png(figure, path: Path, metadata: dict[str, str]) -> None:
    """Picture in 256 colours, which takes a third of the space."""
    from PIL import Image, PngImagePlugin

    buffer, facts = io.BytesIO(), PngImagePlugin.PngInfo()
    figure.savefig(buffer, format="png", dpi=DPI)
    for name, text in metadata.items():
        facts.add_text(name, text)
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, format="PNG", pnginfo=facts, optimize=True, dpi=(DPI, DPI))


def _written(path: Path, write) -> Path:
    """The path, after its file has appeared whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _image_as_figure(picture: bytes):
    """A figure that shows a stored PNG."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(picture), format="png")
    figure = Figure(figsize=(pixels.shape[1] / DPI, pixels.shape[0] / DPI), dpi=DPI)
    figure.figimage(pixels)
    return figure
