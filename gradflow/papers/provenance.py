"""Where a result comes from: the call, its settings, the versions, and a digest of the code behind it."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from gradflow.config import to_config, versions
from gradflow.papers.paper import INDEPENDENT, Figure
from gradflow.papers.registry import known, module_name

LIBRARY = Path(__file__).resolve().parents[1]


def provenance(figure: Figure, size: str, overrides: dict) -> dict:
    """Everything that is needed to repeat a figure, as JSON."""
    settings = {name: to_config(value) for name, value in figure.settings(size, overrides).items()}
    seeds = {name: value for name, value in settings.items() if "seed" in name}
    arguments = "".join(f", {name}={value!r}" for name, value in overrides.items())
    facts = {
        "paper": figure.paper.slug,
        "figure": figure.name,
        "citation": figure.paper.citation,
        "caption": figure.caption,
        "call": f"gf.reproduce({figure.paper.slug!r}, figure={figure.name!r}, size={size!r}{arguments})",
        "settings": settings,
        "seeds": seeds or f"fixed in gradflow/papers/{module_name(figure.paper)}.py",
        "versions": versions(),
        "code": code_digest(module_name(figure.paper)),
    }
    relevant = {name: value for name, value in facts["versions"].items() if name != "commit"}
    facts["key"] = _digest(json.dumps([facts["call"], settings, facts["code"], relevant]).encode())
    return facts


def stem(figure: Figure, size: str, overrides: dict) -> str:
    """Name of the files of a figure: full ones carry the bare name, so that no other run overwrites them."""
    name = figure.name + ("-small" if size == "small" else "")
    return f"{name}-{_digest(json.dumps(to_config(overrides)).encode())[:6]}" if overrides else name


@cache
def code_digest(module: str) -> str:
    """Digest of the library and of one paper's file; other papers' files do not matter."""
    others = {module_name(paper) for paper in known().values()} - {module}
    lines = []
    for path in sorted(LIBRARY.rglob("*.py")):
        if not (path.parent.name == "papers" and path.stem in others):
            lines.append(f"{path.relative_to(LIBRARY)} {_digest(path.read_bytes())}")
    lines.append(_digest(INDEPENDENT.read_bytes()))
    return _digest("\n".join(lines).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
