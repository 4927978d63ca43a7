"""Exports of every recipe's generator: the same pictures, in PyTorch alone and in a real Chromium."""

import base64
import copy
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import torch
from browser import Browser
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from facegan import recipes, sampling
from facegan.errors import FaceganError
from facegan.export import html, terms
from facegan.export.generator import Generator
from facegan.export.lower import Program, lower
from facegan.export.matched import bilinear
from facegan.export.rounding import round_weights
from facegan.metrics import Measurement, record
from facegan.networks import build_generator
from facegan.networks.moments import MOST, MatchedMoments
from facegan.networks.spectrum import MatchedSpectrum
from facegan.recipes import Recipe
from facegan.run.snapshot import Snapshot, load_snapshot, write_snapshot
from jobs.cli import main

# Recipes by what a page has to manage: transposed and enlarged maps, dense layers, a crop, one channel, 128 px.
SHOWN: dict[str, dict[str, object]] = {
    "dcgan-64": {"ngf": 8},
    "mlp-64": {"ngf": 16},
    "wgan-gp-lfw": {},
    "dcgan-28": {"channels": 1, "ngf": 8},
    "face-128": {"ngf": 4},
    "wgan-gp-64": {"ngf": 8},
    "dcgan-128": {"ngf": 4},
}
LIGHT: dict[str, object] = {"ngf": 4, "moments_side": 4, "value_range": "sigmoid"}
DRAWN = [*SHOWN.items(), ("face-64", {"ngf": 4, "generator_norm": "instance"}), ("face-64", LIGHT)]
NASTY = "<script>alert(1)</script>\"'&{{7*7}}"


def make_generator(recipe: Recipe) -> nn.Module:
    """A generator as after a training: statistics and biases not those of the start, pictures with contrast."""
    torch.manual_seed(1)
    generator = build_generator(recipe).eval().requires_grad_(False)
    layers = [m for m in generator.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for module in generator.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.weight.uniform_(0.5, 2), module.bias.normal_(0, 0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.02), module.running_var.uniform_(0.5, 2)
            module.bias.normal_(0, 0.2)
    z = sampling.latents(3, 16, recipe.latent_dim)
    for layer in layers:  # each map of about unit size, whatever the initialisation
        found: list[Tensor] = []
        hook = layer.register_forward_hook(lambda m, i, output, found=found: found.append(output))
        generator(z)
        hook.remove()
        layer.weight.div_(found[0].std())
    for matched in (m for m in generator.modules() if isinstance(m, MatchedMoments)):
        change_light(matched)
    for filter_ in (m for m in generator.modules() if isinstance(m, MatchedSpectrum)):
        filter_.weight.normal_(0, 0.02)
    return generator


def change_light(layer: MatchedMoments) -> None:
    """As after a training: symmetric, its eigenvalues spread over those that are possible."""
    vectors, _ = torch.linalg.qr(torch.randn(layer.change.shape))
    layer.change.copy_((vectors * torch.empty(len(vectors)).uniform_(1 / MOST - 1, MOST - 1)) @ vectors.T)
    layer.bias.normal_(0, 0.05)


def make_run(path: Path, name: str, source: str = "faces", **values: object) -> Path:
    """A run folder with one snapshot."""
    recipe = recipes.from_values(name, values)
    about = {"data": {"source": {"name": source, "kind": "folder"}}, "settings": {}}
    write_snapshot(path / "snapshots", 64_000, make_generator(recipe), recipe, 7, about)
    return path


def run_program(program: Program, z: Tensor) -> Tensor:
    with torch.no_grad():
        return Generator(program.layers, program.tensors)(z)


@pytest.mark.parametrize("name", recipes.recipe_classes())
def test_the_lowered_layers_draw_what_the_generator_draws(name: str) -> None:
    recipe = recipes.load(name)
    generator = make_generator(recipe)
    z = sampling.latents(0, 2, recipe.latent_dim)
    program = lower(generator, recipe.latent_dim)
    assert program.shape == (recipe.channels, *recipe.resolution)
    assert torch.allclose(run_program(program, z), generator(z), atol=2e-5)
    assert not any("running" in tensor for tensor in program.tensors)


def test_matched_light_is_lowered_and_clipped() -> None:
    recipe = recipes.from_values("face-64", {"ngf": 4, "spectrum_kernel": 0})
    generator, z = make_generator(recipe), sampling.latents(0, 4, recipe.latent_dim)
    matched = generator.to_range[1]
    matched.change.mul_(20)  # so far that some is beyond white
    program = lower(generator, recipe.latent_dim)
    images = run_program(program, z)
    assert torch.allclose(images, generator(z), atol=1e-4)
    assert (images == 1).any() and (images == -1).any()
    matched.leave()
    unmatched = lower(generator, recipe.latent_dim)
    assert (images - run_program(unmatched, z)).abs().mean() > 0.05
    assert unmatched.layers == program.layers[: len(unmatched.layers)] and unmatched.layers[-1]["op"] == "tanh"
    kernel = program.layers[-3]["weight"]
    assert torch.equal(round_weights(program, 3).program.tensors[kernel], program.tensors[kernel])


def test_a_matched_spectrum_is_lowered_up_to_the_border_and_clipped() -> None:
    recipe = recipes.from_values("face-64", {"ngf": 4, "moments_side": 0, "spectrum_kernel": 5})
    generator, z = make_generator(recipe), sampling.latents(0, 4, recipe.latent_dim)
    filter_ = generator.to_range[1]
    filter_.weight.mul_(20)
    program = lower(generator, recipe.latent_dim)
    images = run_program(program, z)
    assert torch.allclose(images, generator(z), atol=1e-4)
    assert (images == 1).any() and (images == -1).any()
    kernel = program.layers[-3]["weight"]
    assert torch.equal(round_weights(program, 3).program.tensors[kernel], program.tensors[kernel])
    filter_.leave()
    assert lower(generator, recipe.latent_dim).layers[-1]["op"] == "tanh"


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_a_transposed_convolution_enlarges_bilinearly_up_to_the_border(factor: int) -> None:
    maps, layer = torch.randn(2, 3, 5, 5), bilinear(3, factor)
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    large = F.conv_transpose2d(padded, layer["weight"], layer["bias"], layer["stride"], layer["padding"])
    want = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    assert large.shape == (2, 3, 5 * factor, 5 * factor)
    assert torch.allclose(large, want, atol=1e-6)


def test_sums_of_two_ways_are_lowered() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.norm = nn.Linear(8, 4 * 9), nn.BatchNorm2d(4)
            self.conv, self.act, self.up = (
                nn.Conv2d(4, 4, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Upsample(scale_factor=2),
            )

        def forward(self, z: Tensor, masks: object = None) -> Tensor:
            x = self.up(self.project(z).view(-1, 4, 3, 3))
            return x + self.conv(self.act(self.norm(x)))

    torch.manual_seed(0)
    generator, z = Residual().eval(), torch.randn(5, 8)
    assert torch.allclose(run_program(lower(generator, 8), z), generator(z), atol=1e-5)


def test_a_layer_that_no_export_knows_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.odd = nn.Linear(4, 12), nn.GELU()

        def forward(self, z: Tensor, masks: object = None) -> Tensor:
            return self.odd(self.dense(z)).view(-1, 3, 2, 2)

    with pytest.raises(FaceganError, match="the generator's odd is GELU, which no export can run"):
        lower(Odd(), 4)


def test_a_layer_that_does_more_than_its_kind_is_not_taken_for_it() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = Doubling(4, 12)

        def forward(self, z: Tensor, masks: object = None) -> Tensor:
            return self.dense(z).view(-1, 3, 2, 2)

    with pytest.raises(FaceganError, match="not what it seems"):
        lower(Odd(), 4)


def test_rounded_weights_are_whole_steps_within_a_step_of_the_weights() -> None:
    recipe = recipes.from_values("dcgan-64", {"ngf": 8})
    program = lower(make_generator(recipe), recipe.latent_dim)
    rounded = round_weights(program)
    for name, whole in rounded.whole.items():
        assert whole.dtype is torch.int8 and whole.abs().max() <= 127
        error = (rounded.program.tensors[name] - program.tensors[name]).flatten(1)
        assert error.square().mean() < (0.02 * program.tensors[name].std()) ** 2
    assert all(torch.equal(rounded.program.tensors[n], t) for n, t in program.tensors.items() if t.dim() == 1)


def test_directions_are_those_that_change_the_first_layer_most() -> None:
    program = Program(3, [{"op": "dense", "weight": "w"}], {"w": torch.diag(torch.tensor([1.0, 3.0, 2.0]))})
    assert torch.equal(html.directions(program, 2).abs(), torch.tensor([[0.0, 1, 0], [0.0, 0, 1]]))


def test_a_page_is_made_as_small_as_asked_and_says_what_that_costs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "mlp-64", ngf=32)
    output = CliRunner().invoke(main, ["export", str(run), "--to", "html"]).output
    page = run / "export" / "faces.html"
    whole = page.stat().st_size
    assert re.search(r"faces.html \(\d\.\d MB; rounding its weights moves a pixel by 0\.\d\d of 255", output)
    coarse = CliRunner().invoke(main, ["export", str(run), "--to", "html", "--max-mb", "1.6"])
    assert page.stat().st_size <= 1.6e6 < whole
    assert re.search(r"\d+ values a weight; rounding its weights moves a pixel by \d", coarse.output)
    too_small = CliRunner().invoke(main, ["export", str(run), "--to", "html", "--max-mb", "0.5"])
    assert too_small.exit_code == 1 and "give --max-mb" in too_small.stderr
    assert page.stat().st_size <= 1.6e6, "a refused export leaves the page before it"
    assert [path.name for path in page.parent.iterdir()] == ["faces.html"]


def test_one_snapshot_of_a_run_can_be_chosen(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "dcgan-28", ngf=4)
    snapshot = load_snapshot(run).path
    result = CliRunner().invoke(main, ["export", str(snapshot), "--to", "html"])
    assert result.exit_code == 0 and (run / "export" / "faces.html").exists()


@pytest.mark.parametrize("source", ["img_align_celeba.zip", "CelebA"])
def test_terms_that_forbid_passing_on_have_to_be_confirmed(tmp_path: Path, source: str) -> None:
    run = make_run(tmp_path / "run", "dcgan-28", source, ngf=4)
    refused = CliRunner().invoke(main, ["export", str(run), "--to", "html"])
    assert refused.exit_code == 1
    assert "CelebA: for non-commercial research only" in refused.stderr and "--confirm-terms" in refused.stderr
    assert not (run / "export").exists()
    assert CliRunner().invoke(main, ["export", str(run), "--to", "html", "--confirm-terms"]).exit_code == 0
    assert "CelebA: for non-commercial research only" in (run / "export" / "faces.html").read_text()


@pytest.mark.parametrize(
    ("carried", "refused"),
    [("free: drawn by us", ""), ("Internal use only.\n", "Internal use only."), ("", "CelebA: for")],
)
def test_the_terms_that_a_set_carries_decide_before_its_name(tmp_path: Path, carried: str, refused: str) -> None:
    snapshot = load_snapshot(make_run(tmp_path / "run", "dcgan-28", "img_align_celeba", ngf=4))
    snapshot.meta["data"]["terms"] = carried
    assert terms.restriction(snapshot).startswith(refused) and bool(terms.restriction(snapshot)) == bool(refused)


def test_terms_that_a_set_states_are_repeated_where_nothing_is_forbidden(tmp_path: Path) -> None:
    snapshot = load_snapshot(make_run(tmp_path / "run", "dcgan-28", "own.zip", ngf=4))
    assert terms.sentence(snapshot).startswith("Ask whoever made it")
    snapshot.meta["data"]["terms"] = "free: drawn\nby us"
    assert terms.sentence(snapshot) == "The terms of its training pictures: free: drawn by us."
    snapshot.meta["data"]["mixed"] = [{"source": {"name": "other.zip"}}]  # of which nothing is known
    assert terms.sentence(snapshot).startswith("Ask whoever made it")


def test_the_page_tells_what_was_seen_of_which_data(tmp_path: Path) -> None:
    snapshot = load_snapshot(make_run(tmp_path / "run", "mlp-64", "lfw.tgz", ngf=4))
    text = html.write_page(snapshot, tmp_path / "faces.html", "faces-1").path.read_text()
    assert "<dt>trained on</dt><dd>lfw.tgz, 64 thousand images seen</dd>" in re.sub(r">\s+<", "><", text)


def test_names_cannot_put_anything_into_the_page(tmp_path: Path) -> None:
    snapshot = load_snapshot(make_run(tmp_path / "run", "dcgan-28", NASTY, ngf=4))
    text = html.write_page(snapshot, tmp_path / "faces.html", NASTY).path.read_text()
    assert "<script>alert" not in text and "{{7*7}}" in text and text.count("<script") == 4


@pytest.mark.parametrize(("name", "values"), [*DRAWN, ("face-64", {"ngf": 4})])
def test_onnxruntime_draws_what_pytorch_draws_for_any_batch(
    tmp_path: Path, name: str, values: dict[str, object]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = make_run(tmp_path / "run", name, **values)
    output = CliRunner().invoke(main, ["export", str(run), "--to", "onnx"]).output
    assert re.search(r"generator.onnx \(\d+\.\d MB, opset 17, any batch; onnxruntime's images are at most", output)
    session = onnxruntime.InferenceSession(run / "export" / "generator.onnx", providers=["CPUExecutionProvider"])
    snapshot = load_snapshot(run)
    for batch in (1, 3):
        z = sampling.latents(5, batch, snapshot.recipe.latent_dim)
        (images,) = session.run(["images"], {"z": z.numpy()})
        exact = copy.deepcopy(snapshot.generator).double()(z.double())
        assert (torch.from_numpy(images) - exact).abs().max() <= 1e-5


def test_without_the_extra_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    run = make_run(tmp_path / "run", "dcgan-28", ngf=4)
    result = CliRunner().invoke(main, ["export", str(run), "--to", "onnx"])
    assert result.exit_code == 2 and "pip install 'facegan[onnx]'" in result.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "faces-1", "wgan-gp-lfw", "lfw.tgz")
    protocol = {"n": 1024, "set": "f" * 64, "split": "test", "crop": "150", "seed": 0}
    record(run, [Measurement("swd", 64_000, {"metrics/swd1k": 20.5}, protocol)])
    record(run, [Measurement("swd", 32_000, {"metrics/swd1k": 99.5}, protocol)])
    result = CliRunner().invoke(main, ["export", str(run), "--to", "hub", "--out", str(run.parent / "hub")])
    assert result.exit_code == 0, result.output
    return run.parent / "hub"


def test_the_card_s_own_lines_load_the_generator_without_this_package(hub: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (hub / "README.md").read_text(), re.DOTALL)
    assert len(code.split("\n")) - code.count("\n\n") - 1 == 5
    forbid = "import sys\nsys.modules['facegan'] = None\ntorch_seed = __import__('torch').manual_seed(3)\n"
    keep = "\nfrom safetensors.torch import save_file\n"
    keep += "save_file({'images': images.contiguous()}, 'images.safetensors')\n"
    subprocess.run([sys.executable, "-c", forbid + code + keep], cwd=hub, check=True)
    snapshot = load_snapshot(hub.parent / "faces-1")
    torch.manual_seed(3)
    want = snapshot.generator(torch.randn(16, snapshot.recipe.latent_dim))
    assert torch.allclose(load_file(hub / "images.safetensors")["images"], want, atol=2e-5)
    (hub / "images.safetensors").unlink()
    shutil.rmtree(hub / "__pycache__", ignore_errors=True)


def test_the_card_tells_recipe_data_metrics_and_use(hub: Path) -> None:
    card = (hub / "README.md").read_text()
    facts = (
        "wgan-gp-lfw",
        "rlronan",
        "lfw.tgz",
        "64 thousand pictures",
        "swd1k: 20.5",
        "split &#34;test&#34;",
        "gp_weight",
    )
    assert all(fact in card for fact in facts)
    assert "99.5" not in card, "a metric of another snapshot"
    assert yaml_head(card)["pipeline_tag"] == "unconditional-image-generation"
    assert yaml_head((hub / "space" / "README.md").read_text())["sdk"] == "static"
    names = sorted(str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file())
    assert names == [
        "README.md", "config.json", "generator.py", "generator.safetensors", "samples.png",
        "space/README.md", "space/index.html",
    ]  # fmt: skip


def test_the_card_gives_no_source_for_what_the_run_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "dcgan-28", ngf=4, batch_size=16)
    assert CliRunner().invoke(main, ["export", str(run), "--to", "hub"]).exit_code == 0
    card = (run / "export" / "hub" / "README.md").read_text()
    assert "| `batch_size` | 16 | this run |" in card
    assert "| `g_lr` | 0.0002 | ours: " in card


def yaml_head(text: str) -> dict[str, str]:
    lines = text.split("---\n")[1].splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_none_of_a_sets_pictures_go_into_an_export(tmp_path: Path) -> None:
    """Not those that lie in the run folder either: the grid of real pictures, the nearest ones."""
    run = make_run(tmp_path / "run", "dcgan-28", ngf=4)
    (run / "samples").mkdir()
    real = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for name in ("real.png", "nearest-nimg-000000064000.png"):
        sampling.save_png(sampling.grid(real), run / "samples" / name)
    stored = (run / "samples" / "real.png").read_bytes()
    for target in ("html", "hub"):
        result = CliRunner().invoke(main, ["export", str(run), "--to", target])
        assert result.exit_code == 0, result.output
    files = [path for path in (run / "export").rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix in (".png", ".jpg", ".tar")] == ["samples.png"]
    rows = [real[0, 0, 9].numpy().tobytes(), stored[60:120]]
    signs = [sign for row in rows for sign in (row, base64.b64encode(row)[2:-4], base64.b85encode(row)[5:-5])]
    assert len(files) > 5 and not [path for path in files for sign in signs if sign in path.read_bytes()]


def test_the_hub_folder_replaces_only_its_own(hub: Path, tmp_path: Path) -> None:
    run = hub.parent / "faces-1"
    (hub / "old").write_text("from before")
    assert CliRunner().invoke(main, ["export", str(run), "--to", "hub", "--out", str(hub)]).exit_code == 0
    assert not (hub / "old").exists() and (hub / "README.md").exists()
    (tmp_path / "mine.txt").write_text("mine")
    refused = CliRunner().invoke(main, ["export", str(run), "--to", "hub", "--out", str(tmp_path)])
    assert refused.exit_code == 2 and "choose another" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# In the browser


def snapshot_of(name: str, values: dict[str, object]) -> Snapshot:
    recipe = recipes.from_values(name, values)
    return Snapshot(make_generator(recipe), recipe, 64_000, 7, Path("run"), {"data": {"source": {"name": "faces"}}})


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := browser.missing():
        pytest.skip(reason)
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "faces.html"
    return html.write_page(snapshot_of("dcgan-64", SHOWN["dcgan-64"]), out, "faces-1").path


def until(opened: Browser, script: str, seconds: float = 60) -> Any:
    """What the script returns, once that is true."""
    end = time.monotonic() + seconds
    while not (found := opened.run(script)):
        assert time.monotonic() < end, opened.run("return document.body.innerText")
        time.sleep(0.05)
    return found


def show(opened: Browser, page: Path, width: int = 1280, **options: Any) -> dict[str, Any]:
    """Open a page and wait until all its faces are drawn; what it found when it checked itself."""
    opened.open(page, width, 900, **options)
    check = until(opened, "return document.documentElement.dataset.check")
    until(opened, "return !busy && !wanted.size")
    found: dict[str, Any] = json.loads(check)
    return found


def pixels(opened: Browser, which: str) -> Tensor:
    """A canvas's pixels: (height, width, 3)."""
    script = (
        "const c = canvases[arguments[0]]; const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.height, c.width, Array.from(d)];"
    )
    height, width, values = opened.run(script, which)
    return torch.tensor(values).view(height, width, 4)[:, :, :3]


def expected(snapshot: Snapshot, z: Tensor) -> Tensor:
    """What PyTorch draws with the page's weights: (n, H, W, 3)."""
    rounded = round_weights(lower(snapshot.generator, snapshot.recipe.latent_dim)).program
    images = sampling.to_uint8(run_program(rounded, z), snapshot.recipe.value_range)
    return images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).int()


@pytest.mark.parametrize(("name", "values"), DRAWN)
def test_the_browser_draws_the_pictures_that_pytorch_draws(
    chromium: Browser, tmp_path: Path, name: str, values: dict[str, object]
) -> None:
    snapshot = snapshot_of(name, values)
    page = html.write_page(snapshot, tmp_path / "faces.html", name).path
    check = show(chromium, page)
    assert check["worst"] <= 1 and check["drift"] < 1e-6 and check["simd"]
    want = expected(snapshot, sampling.latents(0, 24, snapshot.recipe.latent_dim))
    assert want.float().std() > 20
    for face in (0, 1, 23):
        assert (pixels(chromium, str(face)) - want[face]).abs().max() <= 2
    exact = sampling.generate(snapshot.generator, sampling.latents(0, 1, snapshot.recipe.latent_dim))
    assert exact.shape[2:] == pixels(chromium, "large").shape[:2]
    assert "Checked: 8 faces are those that PyTorch drew" in chromium.run("return document.body.innerText")
    assert chromium.console() == []
    assert [url for url in chromium.requests() if not url.startswith("blob:")] == [page.resolve().as_uri()]


def test_without_simd_it_draws_the_same(chromium: Browser, tmp_path: Path, page: Path) -> None:
    text = page.read_text().replace('"kernel":"AGFzbQ', '"kernel":"BGFzbQ')  # not WebAssembly any more
    (tmp_path / "plain.html").write_text(text)
    check = show(chromium, tmp_path / "plain.html")
    assert check["worst"] <= 1 and not check["simd"]


def press(opened: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
        opened.devtools("Input.dispatchKeyEvent", type=kind, key=key, **text)


def test_keys_choose_faces_and_seeds_and_the_address_holds_them(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    chromium.run("cells[0].focus()")
    press(chromium, "ArrowRight")
    press(chromium, "ArrowDown")
    assert chromium.run("return [state.face, document.activeElement === cells[7], location.hash]") == [
        7, True, "#seed=0&face=7&to=2",
    ]  # fmt: skip
    press(chromium, "n")
    seed = until(chromium, "return state.seed")
    assert chromium.run("return location.hash") == f"#seed={seed}&face=7&to=2"
    press(chromium, "r")
    until(chromium, "return !busy && !wanted.size")
    drawn = pixels(chromium, "large")
    chromium.run("location.hash = '#seed=0&face=0'; location.hash = arguments[0]", f"#seed={seed}&face=7&to=2")
    until(chromium, "return state.seed && !busy && !wanted.size")
    assert torch.equal(pixels(chromium, "large"), drawn)
    assert not [line for line in chromium.console() if "readback" not in line]  # which only this test does


def saved(opened: Browser, folder: Path, element: str) -> Tensor:
    """The picture that a click on a button saves: (height, width, 3)."""
    before = set(folder.glob("*.png"))
    opened.run(f"find('{element}').click()")
    end = time.monotonic() + 60
    while not (found := set(folder.glob("*.png")) - before):
        assert time.monotonic() < end, f"{element} saved nothing"
        time.sleep(0.05)
    with Image.open(found.pop()) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).int()


def test_every_picture_can_be_saved_as_it_is_shown(chromium: Browser, page: Path, tmp_path: Path) -> None:
    """One of the grid, one on the way between two and moved along a direction, and all together."""
    chromium.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    show(chromium, page)
    chromium.run("cells[4].click()")
    until(chromium, "return !busy && !wanted.size")
    assert torch.equal(saved(chromium, tmp_path, "save"), pixels(chromium, "4"))
    assert [path.name for path in tmp_path.glob("*.png")] == ["face-seed-0-5.png"]
    chromium.run("location.hash = '#face=3&to=9&walk=0.5&d1=2'; read()")
    until(chromium, "return !busy && !wanted.size")
    assert torch.equal(saved(chromium, tmp_path, "save"), pixels(chromium, "large"))
    sheet = saved(chromium, tmp_path, "sheet")
    height, width = pixels(chromium, "0").shape[:2]
    for face in (0, 7, 23):
        row, column = face // 6 * (height + 2), face % 6 * (width + 2)
        assert torch.equal(sheet[row : row + height, column : column + width], pixels(chromium, str(face)))
    assert not [url for url in chromium.requests() if not url.startswith(("blob:", "file:"))]


def test_a_walk_starts_and_ends_at_faces_and_sliders_move_along_directions(chromium: Browser, page: Path) -> None:
    show(chromium, page)

    def at(address: str) -> Tensor:
        chromium.run("location.hash = arguments[0]; read()", address)
        until(chromium, "return !busy && !wanted.size")
        return pixels(chromium, "large")

    ends = at("#face=3"), at("#face=9")
    assert torch.equal(at("#face=3&to=9&walk=1"), ends[1])
    middle = at("#face=3&to=9&walk=0.5")
    assert not torch.equal(middle, ends[0]) and not torch.equal(middle, ends[1])
    assert torch.equal(at("#face=3&truncation=0"), at("#face=9&truncation=0"))
    snapshot = snapshot_of("dcgan-64", SHOWN["dcgan-64"])
    z = sampling.latents(0, 4, 100)[3:]
    ways = html.directions(round_weights(lower(snapshot.generator, 100)).program)
    assert (at("#face=3&d2=1.5") - expected(snapshot, z + 1.5 * ways[1])[0]).abs().max() <= 2


def test_a_damaged_address_shows_the_first_faces(chromium: Browser, page: Path) -> None:
    show(chromium, page)
    chromium.run("location.hash = '#seed=x&face=1e99&walk=-3&truncation=&d1=<b>'; read()")
    until(chromium, "return !busy && !wanted.size")
    assert chromium.run("return [state.seed, state.face, state.walk]") == [0, 23, 0]
    assert not [line for line in chromium.console() if "readback" not in line]  # which only this test does


# Texts whose contrast with what lies behind them is below WCAG 2.2's 4.5 (relative luminance of sRGB).
CONTRAST = r"""
const part = (v) => (v <= 10 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const light = (css) => {
  const [r, g, b] = css.match(/[\d.]+/g).map((v) => part(Number(v)));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/, 0\)$/.test(color)) return color;
  }
  return 'rgb(255, 255, 255)';
};
const texts = [...document.querySelectorAll('h1,h2,p,button,label,span,legend,output,dt,dd,kbd,#seed')];
return texts.filter((e) => e.innerText || e.value).map((e) => {
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.id || e.textContent];
}).filter(([ratio]) => ratio < 4.5);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_its_text_can_be_read(tmp_path: Path, page: Path, dark: bool) -> None:
    if reason := browser.missing():
        pytest.skip(reason)
    with Browser(tmp_path, dark=dark) as opened:
        show(opened, page, width=360)
        assert opened.run("return document.documentElement.scrollWidth") <= 360
        small = "return [...document.querySelectorAll('button')].filter((b) => b.offsetHeight < 40).length"
        assert opened.run(small) == 0
        assert opened.run(CONTRAST) == []
        nameless = "(e) => !(e.innerText || e.ariaLabel || e.labels?.length)"
        assert opened.run(f"return [...document.querySelectorAll('button,input')].filter({nameless}).length") == 0
