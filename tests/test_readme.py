"""What the pages say: every command parses, every file and page that is linked exists."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from facegan.recipes import recipe_classes
from jobs import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LAUNCHERS = (["accelerate", "launch"], ["torchrun"], ["python"])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's bash blocks, continued lines joined, without comments."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def inline_commands(page: Path) -> list[str]:
    """Commands in the text, where they are whole: with arguments, and without placeholders such as NAME."""
    found = re.findall(r"`((?:facegan|accelerate launch|\./scripts/)[^`]+)`", page.read_text())
    placeholder = re.compile(r"\.\.\.|\b[A-Z]+\b(?!=)")
    return [text for text in found if len(text.split()) > 2 and not placeholder.search(text)]


def arguments(words: list[str]) -> list[str] | None:
    """What follows `facegan`, or `-m jobs` of a launcher, in a command; None where it is another program's."""
    if words[:1] == ["facegan"]:
        return words[1:]
    if any(words[: len(launcher)] == launcher for launcher in LAUNCHERS) and "jobs" in words:
        return words[words.index("jobs") + 1 :]
    return None


@pytest.fixture
def parsed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are read by click as ever, and then not run."""
    monkeypatch.setattr(click.Command, "invoke", lambda self, ctx: None)


def all_commands(page: Path) -> Iterator[str]:
    yield from shell_lines(page)
    yield from inline_commands(page)


@pytest.mark.usefixtures("parsed_only")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_one_that_facegan_takes(page: Path) -> None:
    for line in all_commands(page):
        words = list(
            itertools.takewhile(lambda word: word not in ("|", "&&", ">", "..."), shlex.split(line, comments=True))
        )
        words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
        found = arguments(words)
        if found:
            try:
                cli.main.main(found, "facegan", standalone_mode=False)
            except click.ClickException as error:
                if "does not exist" not in error.format_message():  # a path of the example
                    pytest.fail(f"{line}: {error.format_message()}", pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_script_and_batch_file_of_a_page_exists(page: Path) -> None:
    for path in re.findall(r"(?<![\w/.])((?:\./)?(?:scripts|slurm|bench|\.ci)/[\w./-]+)", page.read_text()):
        if not path.endswith(("site.sh", "/")):
            assert (ROOT / path.rstrip(".")).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_recipe_and_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"`{recipe}`" in text for recipe in recipe_classes())
    pages = "".join(page.read_text() for page in PAGES)
    assert all(f"facegan {command}" in pages for command in cli.COMMANDS)


def test_each_file_that_contributing_points_to_defines_what_it_names() -> None:
    rows = re.findall(
        r"^\|.*\| `([\w/]+\.py)` \(`(\w+)`\) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 10
    for file, definition in rows:
        assert re.search(rf"^ *(def|class) {definition}\b", (ROOT / file).read_text(), re.MULTILINE), (
            file,
            definition,
        )


def test_every_page_is_reached_from_the_readme_in_two_hops() -> None:
    def linked(page: Path) -> set[Path]:
        targets = re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", page.read_text())
        return {(page.parent / target).resolve() for target in targets if "://" not in target}

    first = linked(ROOT / "README.md")
    second = set().union(*(linked(page) for page in first if page.exists()))
    assert {page for page in PAGES if page.parent.name == "docs"} <= first | second
