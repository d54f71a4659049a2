from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vaecli as package
from browser import Browser, chromium, needs_chromium
from conftest import Vaecli
from vaecli.cli import app
from vaecli.config import Arch, Likelihood, ModelConfig
from vaecli.data.dataset import Images
from vaecli.data.pixels import to_uint8
from vaecli.export import html
from vaecli.export.drawn import Drawn
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import build
from vaecli.system.typed_json import from_json

HOSTILE = "</script><img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, trained: Path, data_dir: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "run.html"
    arguments = ["--format", "html", "--data-dir", data_dir, "-o", path, "-q"]
    assert app.run(["export", "-m", str(trained), *map(str, arguments)]) == 0
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(browser: Browser, page: Path, width: int = 1240, height: int = 1100) -> Browser:
    browser.events.clear()
    browser.size(width, height)
    browser.open(page)
    return browser


def canvas(browser: Browser, name: str = "picture") -> NDArray[np.uint8]:
    """The RGBA pixels of a canvas, (H, W, 4)."""
    width, height, pixels = browser.run(
        f"(() => {{ const c = document.getElementById('{name}');"
        # a copy, or the browser would advise the page on how it is read
        " const k = Object.assign(document.createElement('canvas'),"
        " {width: c.width, height: c.height}).getContext('2d', {willReadFrequently: true});"
        " k.drawImage(c, 0, 0);"
        " const d = k.getImageData(0, 0, c.width, c.height).data;"
        " return [c.width, c.height, [...d]] })()"
    )
    return np.array(pixels, np.uint8).reshape(height, width, 4)


def latent(browser: Browser) -> torch.Tensor:
    """The latent the page says it shows, (1, L)."""
    names, numbers = browser.run("document.getElementById('latent').textContent").split("\n")
    assert names.split(",") == [f"z{index}" for index in range(numbers.count(",") + 1)]
    return torch.tensor([[float(number) for number in numbers.split(",")]])


def centre(browser: Browser, selector: str) -> tuple[float, float, float]:
    """Centre and width of an element, in window coordinates."""
    x, y, width = browser.run(
        f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2, b.width] })()"
    )
    return x, y, width


def click(browser: Browser, selector: str) -> None:
    x, y, _ = centre(browser, selector)
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseReleased", x, y)


def agree(browser: Browser, model: package.Model) -> None:
    """The canvas is torch's decoding of the latent shown, within 2 of 255 grey levels."""
    expected = to_uint8(model.decode(latent(browser)).numpy())[0].transpose(1, 2, 0)
    found = canvas(browser)[..., :3]
    assert np.abs(found.astype(int) - expected).max() <= 2


@needs_chromium
def test_the_page_decodes_as_torch_does(
    browser: Browser, page: Path, trained: Path, tmp_path: Path
) -> None:
    model = package.load(trained)
    opened(browser, page)
    pictures = [canvas(browser)]
    agree(browser, model)

    def changed() -> None:
        agree(browser, model)
        pictures.append(canvas(browser))
        assert not np.array_equal(pictures[-1], pictures[-2])

    before = latent(browser)
    browser.run("document.querySelector('.slider input').focus()")
    for _ in range(80):
        browser.key("ArrowRight")
    changed()
    moved = (latent(browser) - before)[0]
    first = int(browser.run("+document.querySelector('.slider input').id.slice(1)"))
    assert moved[first] == pytest.approx(0.8, abs=0.02)
    assert int((moved != 0).sum()) == 1

    x, y, width = centre(browser, "#map")
    browser.mouse("mousePressed", x, y)
    for step in range(1, 6):
        browser.mouse("mouseMoved", x + step * width / 20, y - step * width / 40)
    browser.mouse("mouseReleased", x + width / 4, y - width / 8)
    changed()
    browser.run("document.getElementById('map').focus()")
    browser.key("ArrowLeft")
    changed()
    click(browser, "#random")
    changed()
    click(browser, "#set-b")
    click(browser, "#reset")
    changed()
    assert not latent(browser).any()
    click(browser, "#set-a")
    browser.run(
        "{ const b = document.getElementById('blend'); b.value = 0.5;"
        " b.dispatchEvent(new Event('input')) }"
    )
    changed()
    click(browser, "#examples button")
    changed()

    downloads = tmp_path / "downloads"
    browser.send(
        "Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads.resolve())
    )
    click(browser, "#save")
    saved = downloads / "decoded.png"
    end = time.monotonic() + 20
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
    image = np.array(Image.open(saved))
    assert np.array_equal(image[8::16, 8::16, :3], canvas(browser)[..., :3])

    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("blob:")] == [
        page.resolve().as_uri()
    ]


@needs_chromium
def test_interpolation_ends_at_what_was_chosen(browser: Browser, page: Path) -> None:
    opened(browser, page)
    click(browser, "#random")
    chosen = latent(browser)
    click(browser, "#set-b")
    click(browser, "#reset")
    click(browser, "#set-a")
    for position in (0.25, 1.0):
        browser.run(
            f"{{ const b = document.getElementById('blend'); b.value = {position};"
            " b.dispatchEvent(new Event('input')) }"
        )
        torch.testing.assert_close(latent(browser), position * chosen, atol=1e-4, rtol=0)
    click(browser, "#play")
    assert browser.run("document.getElementById('play').textContent") == "Pause"
    click(browser, "#play")
    assert browser.run("document.getElementById('play').textContent") == "Play"
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize(
    ("activation", "likelihood"),
    [("gelu", "continuous-bernoulli"), ("silu", "gaussian"), ("tanh", "logistic")],
)
def test_colour_activations_and_hostile_names(
    browser: Browser, tmp_path: Path, activation: str, likelihood: str
) -> None:
    settings = {"image_shape": [3, 6, 5], "hidden": [16, 8], "latent_dim": 2}
    chosen = {"activation": activation, "likelihood": likelihood}
    model = build(from_json(ModelConfig, {**settings, **chosen}, where="model"), seed=0).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(4)
    pixels = torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8).numpy()
    found = html.embed(model, Images(pixels, np.arange(40) % 3))
    names = [HOSTILE, "&lt;b&gt;", "{{data}}"]
    embedding = html.Embedding(found.means, found.kl_per_dim, found.labels, names)
    path = tmp_path / "a.html"
    path.write_text(
        html.render(
            model,
            title=HOSTILE,
            subtitle=HOSTILE,
            figures=[html.Figure(HOSTILE, HOSTILE, HOSTILE)],
            embedding=embedding,
        ).text
    )
    opened(browser, path)
    agree(browser, package.Model(model))
    click(browser, "#random")
    agree(browser, package.Model(model))
    shown = "[...document.querySelectorAll('#legend button')].map((b) => b.textContent)"
    assert browser.run(shown) == names
    assert browser.run("document.getElementById('title').textContent") == HOSTILE
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.title").startswith(HOSTILE)
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 39)])
@pytest.mark.parametrize(
    ("arch", "likelihood"), [("conv", "logistic"), ("grid", "logistic-mixture")]
)
def test_convolutions_decode_as_torch_does(
    browser: Browser,
    tmp_path: Path,
    shape: tuple[int, int, int],
    arch: Arch,
    likelihood: Likelihood,
) -> None:
    config = ModelConfig(
        image_shape=shape, arch=arch, hidden=(6,), latent_dim=3, likelihood=likelihood
    )
    model = build(config, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.decoder.parameters():  # residual branches start at zero
            parameter.add_(0.12 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path / "a.html"
    path.write_text(html.render(model, title=arch).text)
    opened(browser, path)
    for _ in range(3):
        click(browser, "#random")
        agree(browser, package.Model(model))
    assert np.unique(canvas(browser)[..., :3]).size > 30
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_random_shows_each_of_the_draws_of_a_class(
    browser: Browser, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    counts = tuple(1 for _ in classes)
    config = ModelConfig(
        image_shape=(1, 28, 28), latent_dim=3, classes=classes, class_counts=counts
    )
    model = build(config, seed=0)
    latents = (np.arange(18).reshape(6, 3) / 8).astype(np.float32)
    path = tmp_path / "a.html"
    kinds = max(1, len(classes))
    drawn = Drawn("gmm", latents, kinds)
    path.write_text(html.render(model, title="drawn", drawn=drawn).text)
    opened(browser, path)
    for place in range(kinds):
        if classes:
            browser.run(
                f"{{ const m = document.getElementById('class'); m.value = {place};"
                " m.dispatchEvent(new Event('change')) }"
            )
        mine = latents[place::kinds]
        if place == 0:  # two of them are the ends of the walk that the page begins with
            for _ in mine[2:]:
                click(browser, "#random")
        for _ in range(2):
            shown = set[tuple[float, ...]]()
            for _ in mine:
                click(browser, "#random")
                shown.add(tuple(latent(browser)[0].tolist()))
            assert len(shown) == len(mine)
            assert shown <= {tuple(row) for row in mine.tolist()}
    assert "one of 6 latents that vaecli sample --prior gmm draws" in browser.run(
        "document.getElementById('about').textContent"
    )
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 800, 1240])
def test_nothing_sticks_out_and_everything_has_a_name(
    browser: Browser, page: Path, width: int
) -> None:
    opened(browser, page, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "slider")]
    assert len(controls) > 20
    assert all(node["name"]["value"] for node in controls)
    browser.dark(True)
    browser.size(width, 500)
    for place, hidden in (("0", True), ("document.body.scrollHeight", False)):
        browser.run(f"scrollTo(0, {place})")
        browser.run("new Promise((done) => setTimeout(done, 200))")
        assert browser.run("document.getElementById('mini').hidden") is hidden
    dark = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.dark(False)
    assert dark != browser.run("getComputedStyle(document.body).backgroundColor")


@needs_chromium
def test_a_loose_file_makes_a_page_without_a_map(
    browser: Browser, vaecli: Vaecli, trained: Path, tmp_path: Path
) -> None:
    outcome = vaecli("export", "-m", trained / "model.safetensors", "--format", "html")
    assert outcome.out == "model.html\n"
    assert "no map" in outcome.err
    opened(browser, tmp_path / "model.html")
    assert browser.run("document.getElementById('map-panel').hidden")
    agree(browser, package.load(trained))
    click(browser, "#random")
    agree(browser, package.load(trained))
    assert browser.complaints() == []


@needs_chromium
def test_the_decoder_is_fast_enough_to_drag(browser: Browser, tmp_path: Path) -> None:
    model = build(ModelConfig(image_shape=(1, 28, 28)), seed=0)  # the default architecture
    path = tmp_path / "a.html"
    path.write_text(html.render(model, title="default").text)
    opened(browser, path)
    milliseconds = browser.run(
        "(() => { const z = new Float32Array(20), times = [];"
        " for (let i = 0; i < 60; i++) { const t = performance.now(); decode(z);"
        " times.push(performance.now() - t) }"
        " return times.sort((a, b) => a - b)[30] })()"
    )
    assert milliseconds < 5


def content(page: Path) -> dict[str, object]:
    """The data in a page."""
    text = page.read_text().split('id="data">')[1].split("</script>")[0]
    result: dict[str, object] = json.loads(text)
    return result


def test_sliders_are_ordered_by_kl_and_the_map_is_the_best_plane(
    page: Path, trained: Path, data_dir: Path
) -> None:
    from vaecli.data.named import sets

    found = sets.find("mnist", data_dir)
    assert found is not None
    mean, log_variance = package.load(trained).encode(found.test.pixels[:])
    kl = kl_to_prior(mean, log_variance).mean(0)
    data = content(page)
    order, plane = data["order"], data["map"]
    assert isinstance(order, dict)
    assert isinstance(plane, dict)
    indices = [slider["latent"] for slider in order["sliders"]]
    assert indices == kl.argsort(descending=True).tolist()
    assert order["sliders"][0]["weight"] == pytest.approx(float(kl.max()), rel=1e-3)
    # the two largest eigenvalues of the covariance are what the plane holds
    values = torch.linalg.eigvalsh(torch.cov(mean.double().T))
    assert plane["share"] == pytest.approx(float(values[-2:].sum() / values.sum()), rel=1e-3)
    points = torch.tensor(plane["points"]).view(-1, 2)
    axes = torch.tensor(plane["axes"])
    expected = (mean - mean.mean(0)) @ axes.T
    torch.testing.assert_close(points, expected, atol=5e-3, rtol=1e-2)
    assert found.test.labels is not None
    assert plane["labels"] == found.test.labels.tolist()


def test_without_data_the_map_is_left_out_and_nothing_is_downloaded(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    outcome = vaecli(
        "export", "-m", trained, "--format", "html", "--data-dir", "nothing", "-o", "a.html"
    )
    assert outcome.code == 0
    assert "no map of test images" in outcome.err
    data = content(Path("a.html"))
    assert data["map"] is None
    assert data["figures"]
    order = data["order"]
    assert isinstance(order, dict)
    assert order["by"] == "effect"


def test_a_hostile_name_stays_in_its_string(tmp_path: Path) -> None:
    model = build(ModelConfig(image_shape=(1, 2, 2), hidden=(3,), latent_dim=1), seed=0)
    path = tmp_path / "a.html"
    path.write_text(html.render(model, title=HOSTILE).text)
    assert content(path)["title"] == HOSTILE
    assert "<img" not in path.read_text()


ONE_OUTPUT = [name for name in get_args(Likelihood) if name != "logistic-mixture"]
"""Likelihoods with one output for each pixel; the mixture is computed in the page."""


@pytest.mark.parametrize("likelihood", ONE_OUTPUT)
def test_the_table_of_means_is_fine_enough(likelihood: str) -> None:
    """Interpolated as the page does it, against the function itself, far out and close in."""
    settings = {"image_shape": [1, 2, 2], "hidden": [3], "likelihood": likelihood}
    model = build(from_json(ModelConfig, settings, where="model"), seed=0)
    operation = html._mean_table(model)
    table = np.frombuffer(base64.b64decode(operation["values"]), "<f4")
    outputs = torch.cat([torch.linspace(-40, 40, 20_001), torch.linspace(-4000, 4000, 999)])
    places = (np.arcsinh(outputs.numpy()) / operation["reach"] + 1) / 2 * (len(table) - 1)
    found = np.interp(places, np.arange(len(table)), table)
    with torch.inference_mode():
        wanted = model.mean_pixels(outputs).numpy()
    # half a grey level where a mean has a corner, as that of a clipped Gaussian
    assert np.abs(found - wanted).max() < (2e-5 if "bernoulli" in likelihood else 2e-3)
