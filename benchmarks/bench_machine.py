"""What a measurement ran on: processor, load, versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

PACKAGES = (
    "gradflow", "numpy", "scipy", "numba", "torch", "torchdiffeq", "torchode", "jax", "diffrax", "scikit-sundae",
    "numbalsoda",
)  # fmt: skip


def machine() -> dict:
    """Processor, cores, load, BLAS, Python, versions, commit and day."""
    from threadpoolctl import threadpool_info

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    blas = {f"{lib['internal_api']} {lib.get('architecture', '')}".strip() for lib in threadpool_info()}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "blas": sorted(blas),
        "versions": versions,
        "commit": _commit(),
        "day": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """Model of the processor, with its widest vector instructions."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = dict(
        line.split(":", 1) for line in info.read_text().split("\n\n")[0].replace("\t", "").splitlines() if ":" in line
    )
    flags = lines.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    family = f"family {lines.get('cpu family', '?').strip()} model {lines.get('model', '?').strip()}"
    return f"{lines.get('model name', 'unknown').strip()} ({family}, {vectors})"


def _commit() -> str:
    """Commit of the working tree, marked if it has changes."""
    try:
        here = Path(__file__).parent
        options = {"cwd": here, "capture_output": True, "text": True, "check": True}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **options).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "../gradflow"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, with changes" if changes else commit
