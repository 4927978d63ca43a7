"""The report of made-up runs, read as text and in a real Chromium."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest
import torch
from browser import Browser
from click.testing import CliRunner
from PIL import Image
from tiny import tiny_recipe

from facegan import recipes
from facegan.metrics import Measurement, record
from facegan.networks import build_generator
from facegan.report import charts, pictures, tables
from facegan.report import page as report
from facegan.report.charts import Series, line_chart
from facegan.run.folder import make_config
from facegan.run.settings import RunSettings
from facegan.run.snapshot import write_snapshot
from jobs.cli import main

NASTY = "<script>alert(1)</script>\"'&{{7*7}}"


def draw_grid(path: Path, seed: int, size: int = 136) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((size, size)).save(path)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(path: Path, frames: int = 5, crop: str = "150", swd: float = 20.0, reason: str = "stop-file") -> Path:
    """A stopped run with a restart, curves, grids, a snapshot and measurements."""
    recipe = tiny_recipe("dcgan-64", g_lr=3e-4)
    settings = RunSettings(data="data/sh ards/16", run_dir=str(path), seed=7)
    source = {"name": "celeba.zip", "kind": "zip", "samples": 9, "fingerprint": "0" * 64}
    config = make_config(recipe, settings, {"fingerprint": "f" * 64, "source": source}, {"g_lr": "--g-lr"})
    config["software"] |= {"commit": "c0ffee" * 6, "dirty": True}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    stats = [
        {
            "progress/nimg": k * 1000,
            "progress/kimg": float(k),
            "progress/epoch": k / 50,
            "loss/discriminator": 1.3 - k / 100,
            "loss/generator": 0.8 + k / 50,
            "scores/real": float(k),
            "speed/imgs_per_sec": 200.0,
            "speed/data_wait_frac": 0.01,
            "time/total_s": 3725.0,
        }
        for k in range(1, 40)
    ]
    write_lines(path / "stats.jsonl", stats)
    with (path / "stats.jsonl").open("a") as file:
        file.write('{"progress/nimg": 400')  # a killed process
    start = {"time": "2026-11-01T10:00:00+0000", "host": "node1", "machine": "1 rank on cpu", "command": ["train"]}
    write_lines(
        path / "starts.jsonl",
        [{**start, "nimg": 0, "previous": ""}, {**start, "nimg": 20_000, "job": "42", "previous": "killed"}],
    )
    (path / "outcome.json").write_text(json.dumps({"state": "stopped", "reason": reason, "nimg": 39_000}))
    for k in range(frames):
        draw_grid(path / "samples" / f"fake-nimg-{k * 10_000:012d}.png", k)
    draw_grid(path / "samples" / "real.png", 99)
    draw_grid(path / "samples" / "nearest-nimg-000000039000.png", 98)
    torch.manual_seed(0)
    write_snapshot(path / "snapshots", 39_000, build_generator(recipe), recipe, 7, {})
    protocol = {"n": 1024, "set": "f" * 64, "split": "test", "crop": crop, "seed": 0}
    for nimg, value in ((10_000, swd + 9), (39_000, swd)):
        record(path, [Measurement("swd", nimg, {"metrics/swd1k": value, "metrics/swd1k_16": value - 1}, protocol)])
    return path


class Text(HTMLParser):
    """The visible text of a page, and every address in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "faces-1")


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write_report([run], tmp_path_factory.mktemp("page") / "report.html")


def test_the_page_says_what_a_reader_wants_to_know(page: Path) -> None:
    text = Text(page.read_text()).text
    for fact in (
        "stopped: stop-file",
        "39.0 kimg, 0.78 epochs",
        "1 h 02 min",
        "200 images/s (median)",
        "1.0 % of the time",
        "swd1k 20 at 39 kimg",
        "node1, job 42",
        "killed",
        "--g-lr",  # where a value came from
        "split test",
        "commit " + "c0ffee" * 6 + " dirty true",
        "interpolation",
        "most like a training image",
        "real",
    ):
        assert fact in text, fact
    assert text.count("generated, ") == 5


def test_everything_is_inside_the_page(page: Path) -> None:
    addresses = Text(page.read_text()).addresses
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert page.stat().st_size < 10_000_000


def test_a_run_from_before_a_technique_is_shown_without_it(tmp_path: Path) -> None:
    config = make_config(recipes.load("face-64"), RunSettings(), {}, {})
    del config["values"]["self_modulation"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = report.Run(tmp_path)
    assert "--no-self-modulation" in report.reproduce(old)[2]
    (line,) = [line for line in tables.configuration([old]) if line["name"] == "self_modulation"]
    assert line["cells"] == [("false", "")]


def test_the_commands_reproduce_the_run(run: Path) -> None:
    set_up, by_config, by_flags, *_ = report.reproduce(report.Run(run))
    assert set_up == "facegan preprocess celeba.zip 'data/sh ards' --recipe dcgan-64"
    assert by_config == f"facegan train dcgan-64 --config {run}/config.json --run-dir NEW"
    assert "--data 'data/sh ards/16' --run-dir NEW" in by_flags
    assert "--g-lr 0.0003" in by_flags
    assert "--seed 7" in by_flags
    dry = CliRunner().invoke(main, [*by_config.split()[1:], "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert re.search(r"seed +7 +--config", dry.output)


def test_names_and_files_cannot_put_anything_into_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>bold<b>", reason=NASTY)
    config = json.loads((run / "config.json").read_text())
    config["values"]["crop"] = config["sources"]["g_lr"] = config["data"]["path"] = NASTY
    config["software"] = {NASTY: NASTY}
    (run / "config.json").write_text(json.dumps(config))
    write_lines(run / "starts.jsonl", [{"host": NASTY, "job": NASTY, "command": [NASTY], "previous": NASTY}])
    write_lines(run / "stats.jsonl", [{"progress/kimg": k, f"loss/real{NASTY}": k} for k in range(3)])
    (run / "metrics.jsonl").write_text("")
    record(run, [Measurement(NASTY, 1, {f"metrics/{NASTY}": 1.0}, {NASTY: NASTY})])
    page = report.render([report.Run(run)])
    assert page.count("<script>") == 1
    assert "<b>bold" not in page
    assert NASTY in Text(page).text


def test_runs_measured_differently_are_not_set_side_by_side_and_the_page_says_why(
    run: Path, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "faces-2", crop="108", swd=15.0)
    text = Text(report.render([report.Run(run), report.Run(other)])).text
    assert "swd of faces-1 and of faces-2 cannot be compared: crop: 150 against 108" in text
    same = make_run(tmp_path / "faces-3", swd=15.0)
    text = Text(report.render([report.Run(run), report.Run(same)])).text
    assert "cannot be compared" not in text
    assert "faces-1, 39 kimg faces-3, 39 kimg swd1k 20 15" in text
    assert "Where the runs differ" in text


def test_the_best_is_told_for_each_count_by_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "counts", swd=20.0)
    about = {"n": 16384, "set": "f" * 64, "split": "test", "crop": "150", "seed": 0}
    record(run, [Measurement("swd", 10_000, {"metrics/swd16k": 12.0, "metrics/swd16k_16": 1.0}, about)])
    text = Text(report.render([report.Run(run)])).text
    assert "swd1k 20 at 39 kimg" in text
    assert "swd16k 12 at 10 kimg" in text


def test_runs_of_one_folder_name_are_told_apart(tmp_path: Path) -> None:
    for parent, swd in (("ours", 20.0), ("theirs", 15.0)):
        (tmp_path / parent).mkdir()
        make_run(tmp_path / parent / "run", swd=swd)
    page = report.write_report([tmp_path / "ours" / "run", tmp_path / "theirs" / "run"], tmp_path / "page.html")
    assert "ours/run, 39 kimg theirs/run, 39 kimg swd1k 20 15" in Text(page.read_text()).text


def test_a_sweeps_folder_is_reported_though_its_table_lies_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name)
    (tmp_path / "sweep.csv").write_text("run\n")
    (tmp_path / "wandb").mkdir()
    everything = sorted(map(str, tmp_path.iterdir()))
    done = CliRunner().invoke(main, ["report", *everything, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "passed over" in done.stderr
    assert "sweep.csv" in done.stderr
    assert "Report of 2 runs" in (tmp_path / "page.html").read_text()


def test_many_large_grids_are_thinned_and_shrunk_to_stay_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "big", frames=0)
    noise = np.random.default_rng(0)
    for k in range(30):
        pixels = noise.integers(0, 256, (240, 240, 3), np.uint8)
        Image.fromarray(pixels).save(run / "samples" / f"fake-nimg-{k * 1000:012d}.png", compress_level=1)
    assert pictures.PICTURE_BYTES * 4 / 3 < 9_000_000  # base64; the rest of a page is far below a megabyte
    monkeypatch.setattr(pictures, "PICTURE_BYTES", 200_000)
    page = report.render([report.Run(run)])
    assert len(page) < 200_000 * 4 / 3 + 100_000
    shown = re.findall(r"Samples at ([\d.]+) kimg", page)
    assert (len(shown), shown[0], shown[-1]) == (24, "0", "29")


def test_a_run_that_has_only_begun_and_damaged_pictures_still_make_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "early", frames=1)
    for name in ("stats.jsonl", "starts.jsonl", "outcome.json", "metrics.jsonl"):
        (run / name).unlink()
    (run / "samples" / "real.png").write_bytes(b"\x89PNG cut off")
    text = Text(report.render([report.Run(run)])).text
    assert "real.png could not be read" in text
    assert "running or killed" in text
    assert "Not measured yet" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "no run of facegan train here" in done.stderr


def test_the_command_writes_beside_the_run_or_where_it_is_told(run: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["report", str(run)]).exit_code == 0
    assert (run / "report.html").stat().st_size > 10_000
    CliRunner().invoke(main, ["report", str(run), "--out", str(tmp_path / "x" / "page.html")])
    assert (tmp_path / "x" / "page.html").exists()


# Charts


def test_a_chart_puts_values_where_they_belong() -> None:
    svg = line_chart([Series("a", [(0, 0), (10, 1)])], "kimg")
    (points,) = re.findall(r'points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in points.split())
    assert (x0, x1) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert y0 > y1  # larger is higher
    assert charts.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_picture_shows_the_same_line_in_the_same_place() -> None:
    line = Series("a", [(0, 0), (10, 1)], colour=1)
    drawn = charts.picture("Losses", [line, Series("alone", [(0, 1)])], "kimg")
    assert drawn is not None
    pixels = np.asarray(drawn)
    rows, columns = np.nonzero((pixels == (0xE8, 0x59, 0x0C)).all(axis=2))
    in_chart = rows < (24 + charts.HEIGHT) * charts.SCALE  # below stands the legend
    ends = columns[in_chart].min() / charts.SCALE, columns[in_chart].max() / charts.SCALE
    assert ends == pytest.approx((charts.LEFT, charts.WIDTH - charts.RIGHT), abs=2)
    assert rows[columns.argmin()] > rows[in_chart][columns[in_chart].argmax()]  # it rises
    assert charts.picture("Losses", [Series("alone", [(0, 1)])], "kimg") is not None
    assert charts.picture("Losses", [Series("none", [(0, float("nan"))])], "kimg") is None


def test_thinning_keeps_every_spike() -> None:
    points = [(float(k), 100.0 if k == 5003 else 0.0) for k in range(10_000)]
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MOST_POINTS
    assert (5003.0, 100.0) in thinned


def test_labels_of_charts_are_escaped_and_lone_or_infinite_points_left_out() -> None:
    assert NASTY not in line_chart([Series(NASTY, [(0, 0), (1, 1)])], NASTY)
    assert line_chart([Series("a", [(0, 1.0)]), Series("b", [(0, float("nan")), (1, 2.0)])], "kimg") == ""


def test_the_page_leads_to_the_run_s_export_from_wherever_it_lies(tmp_path: Path) -> None:
    run = make_run(tmp_path / "faces #1")
    assert "Draw new faces" not in report.write_report([run], run / "report.html").read_text()
    (run / "export").mkdir()
    (run / "export" / "faces.html").write_text("")
    for out, way in (
        (run / "report.html", "export/faces.html"),
        (tmp_path / "a.html", "faces%20%231/export/faces.html"),
    ):
        addresses = Text(report.write_report([run], out).read_text()).addresses
        assert way in addresses


# In a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := browser.missing():
        pytest.skip(reason)
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def shown(chromium: Browser) -> list[str]:
    script = """return [...document.querySelectorAll('.frames figure')].filter(f => f.offsetParent)
        .map(f => f.querySelector('figcaption').textContent)"""
    return list(chromium.run(script))


def test_the_slider_shows_the_grid_of_its_place(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    assert shown(chromium) == ["generated, 40 kimg"]
    move = """const s = document.querySelector('.control input'); s.value = arguments[0];
        s.dispatchEvent(new Event('input')); return document.querySelector('.control output').textContent"""
    assert chromium.run(move, 1) == "generated, 10 kimg"
    assert shown(chromium) == ["generated, 10 kimg"]
    widths = chromium.run("return [...document.images].filter(i => i.offsetParent).map(i => i.naturalWidth)")
    assert len(widths) == 4  # sample, real, interpolation, nearest
    assert min(widths) > 0


def test_the_slider_moves_with_the_arrow_keys(page: Path, chromium: Browser) -> None:
    chromium.open(page)
    chromium.run("document.querySelector('.control input').focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.devtools(
            "Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37
        )
    assert shown(chromium) == ["generated, 30 kimg"]


def test_nothing_is_asked_for_and_nothing_complained_of(page: Path, chromium: Browser) -> None:
    chromium.requests()
    chromium.console()
    chromium.open(page)
    assert chromium.console() == []
    assert chromium.requests() == [page.resolve().as_uri()]


def test_the_policy_stops_other_scripts_and_requests(page: Path, tmp_path: Path, chromium: Browser) -> None:
    foreign = '<img src="http://127.0.0.1:9/pixel.png"><script>document.title = "taken over"</script></main>'
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text().replace("</main>", foreign))
    chromium.open(changed)
    assert chromium.run("return document.title") == "faces-1 (dcgan-64) · facegan"
    complaints = " ".join(chromium.console())
    assert "Content Security Policy" in complaints
    assert "pixel.png" in complaints


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_every_width_and_looks_like_a_page(
    page: Path, tmp_path: Path, chromium: Browser, width: int
) -> None:
    chromium.open(page, width, 800)
    assert chromium.run("return document.documentElement.scrollWidth") == width
    with Image.open(chromium.screenshot(tmp_path / "page.png")) as shot:
        assert shot.width == width
        assert shot.height > 1500
        assert len(shot.convert("RGB").getcolors(1 << 24) or []) > 500  # pictures, curves and text, not a blank


def test_without_javascript_all_grids_are_there_and_no_dead_slider(page: Path, tmp_path: Path) -> None:
    if reason := browser.missing():
        pytest.skip(reason)
    with Browser(tmp_path, javascript=False) as plain:
        plain.open(page)
        tree = plain.devtools("DOMSnapshot.captureSnapshot", computedStyles=["display"], includePaintOrder=False)
    texts = " ".join(tree["strings"])
    assert texts.count("generated, ") == 5
    styles = tree["documents"][0]["layout"]
    visible = {tree["documents"][0]["nodes"]["nodeName"][node] for node in styles["nodeIndex"]}
    names = {tree["strings"][name] for name in visible}
    assert "FIGURE" in names
    assert "INPUT" not in names  # not laid out at all
