"""How far each export format is from torch: the table of docs/export.md.

    python benchmarks/parity.py

Networks as they are built, weights doubled so that pixels spread over [0, 1], and residual
branches, which start at zero, drawn; every architecture and likelihood of `vaecli.config`, grey
and colour.  onnx and pt2: the larger of encoder and decoder, at batch sizes 1 and 3.  safetensors
--half and html: a decoded pixel, over 64 draws of the prior; html is decoded by Chromium, and left
out without it.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch

from vaecli import config
from vaecli.export import half, html, onnx, parity, parts, pt2
from vaecli.model.vae import VAE, build
from vaecli.system import typed_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import browser

SHAPES = {"grey 28x28": (1, 28, 28), "colour 32x32": (3, 32, 32)}
DRAWS = 64


def models() -> Iterator[tuple[str, VAE]]:
    names = itertools.product(get_args(config.Arch), get_args(config.Likelihood), SHAPES)
    for arch, likelihood, image in names:
        settings = {"arch": arch, "likelihood": likelihood, "image_shape": SHAPES[image]}
        model = build(typed_json.from_json(config.ModelConfig, settings, where="model"), seed=0)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(2)
            for parameter in model.parameters():
                parameter.mul_(2)
                if parameter.ndim and not parameter.any():
                    parameter.normal_(0, 0.1, generator=generator)
        yield f"{arch} | {likelihood} | {image}", model.eval().requires_grad_(False)


def in_parts(model: VAE, kind: object) -> float:
    return max(
        parity.difference(part, kind.load(kind.encode(part)))  # type: ignore[attr-defined]
        for part in parts.split(model)
    )


def in_browser(model: VAE, page: browser.Browser, folder: Path) -> tuple[float, float]:
    """Largest difference of a pixel, and median milliseconds to decode one image."""
    path = folder / "page.html"
    path.write_text(html.render(model, title="parity").text)
    page.events.clear()
    page.open(path)
    latents = torch.randn(DRAWS, model.config.latents, generator=torch.Generator().manual_seed(1))
    script = (
        f"(() => {{ const latents = {json.dumps(latents.tolist())}, times = [];"
        " const images = latents.map((z) => { const start = performance.now();"
        " const image = decode(Float32Array.from(z)); times.push(performance.now() - start);"
        " return [...image] });"
        " return [images, times.sort((a, b) => a - b)[times.length / 2]] })()"
    )
    images, milliseconds = page.run(script)
    expected = model.mean_image(latents).flatten(1)
    return float((torch.tensor(images) - expected).abs().max()), milliseconds


def main() -> None:
    print(
        "| architecture | likelihood | images | onnx | pt2 | safetensors --half | html"
        " | ms per image in the page |"
    )
    print("|" + " --- |" * 8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, model in models():
            values = [in_parts(model, onnx), in_parts(model, pt2)]
            values.append(half.half_difference(model, half.round_to_half(model)))
            row = " | ".join(f"{value:.1e}" for value in values)
            if browser.CHROMIUM is not None:
                with browser.chromium(folder / "profile") as page:
                    found, milliseconds = in_browser(model, page, folder)
                row += f" | {found:.1e} | {milliseconds:.1f}"
            print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
