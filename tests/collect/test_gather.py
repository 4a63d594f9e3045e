"""From files and folders to a data folder: everything with its place, digest and time, and a line for all else."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.collect import PLACES, Origin, files
from sartor.collect.gather import gather, origin_of
from sartor.data import folder as data_folder
from sartor.data.folder import DataFolder
from sartor.errors import DataError, RecipeError, UserError

from .site import FakeTime

ROW = '{"prompt": "a", "completion": "b"}\n'


def put(root: Path, **files: bytes | str) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def collected(
    root: Path, *places: str, target: str = "out", hours: FakeTime | None = None, only: Any = "", **options: Any
) -> DataFolder:
    origins = [origin_of(place, root=root, **options) for place in places]
    return gather(origins, root / target, clock=(hours or FakeTime()).clock(), only=only)


def reasons(folder: DataFolder) -> dict[str, str]:
    return {entry.file: entry.reason for entry in folder.ledger()}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    put(tmp_path, docs__b_dot_md="# Bee\n", docs__a_dot_txt="ay", docs__sub__c_dot_html="<p>cee</p>")
    return tmp_path


def test_a_folder_in_the_order_of_its_paths_with_digest_time_and_licence(docs: Path) -> None:
    put(docs, docs__LICENSE="Apache License\nVersion 2.0", docs__d_dot_md="---\nlicense: mit\n---\ndee")
    folder = collected(docs, "docs/")
    documents = list(folder.documents())
    assert [(document.place, document.text) for document in documents] == [
        ("docs/a.txt", "ay"),
        ("docs/b.md", "# Bee\n"),
        ("docs/d.md", "dee"),
        ("docs/sub/c.html", "cee"),
    ]
    assert [document.licence for document in documents] == ["Apache-2.0", "Apache-2.0", "mit", "Apache-2.0"]
    assert documents[0].digest == hashlib.sha256(b"ay").hexdigest()
    assert {document.time for document in documents} == {"2026-01-02T03:04:05+00:00"}
    places = [json.loads(line) for line in (docs / "out" / PLACES).read_text().splitlines()]
    assert [(place["place"], place["digest"]) for place in places] == [
        (document.place, document.digest) for document in documents
    ]
    assert data_folder.open_folder(docs / "out", "out").digest == folder.digest


def test_all_that_is_not_taken_has_a_reason(docs: Path) -> None:
    put(docs, docs__e_dot_exe="x", docs__empty_dot_txt="", docs__nul_dot_txt=b"a\0b", docs__skip__x_dot_md="x")
    put(docs, docs___dot_sartorignore="skip/\n", docs__no_dot_pdf="no", docs__deep_dot_html="<div>" * 999)
    put(docs, docs__big_dot_bin_dot_md="version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    put(docs, docs__old_dot_txt="Größe und Maß".encode("latin-1"))
    (docs / "docs" / "link.md").symlink_to("b.md")
    os.mkfifo(docs / "docs" / "pipe.txt")
    folder = collected(docs, "docs")
    assert len(list(folder.documents())) == 4
    assert reasons(folder) == {
        "docs/.sartorignore": "excluded",
        "docs/big.bin.md": "lfs_pointer",
        "docs/deep.html": "html_depth",
        "docs/e.exe": "media_type",
        "docs/empty.txt": "empty",
        "docs/link.md": "link",
        "docs/no.pdf": "damaged",
        "docs/nul.txt": "binary",
        "docs/old.txt": "encoding",
        "docs/pipe.txt": "not_a_file",
        "docs/skip/": "excluded",
    }


def test_rows_become_examples_and_bad_ones_entries(tmp_path: Path) -> None:
    put(tmp_path, d__x_dot_jsonl=ROW + "{bad\n" + ROW.replace("a", "c", 1), d__y_dot_json="[1")
    folder = collected(tmp_path, "d")
    assert [example.id for example in folder.examples()] == ["d/x.jsonl:1", "d/x.jsonl:3"]
    assert reasons(folder) == {"d/x.jsonl": "syntax", "d/y.json": "unreadable"}


def test_a_clone_of_a_data_set_has_a_card_that_is_no_part_of_it(tmp_path: Path) -> None:
    card = "---\nlicense: cc-by-4.0\ntask_categories:\n- text-generation\n---\n# Things\n\nconfigs: none\n"
    put(tmp_path, d__README_dot_md=card, d__data__x_dot_jsonl=ROW)
    folder = collected(tmp_path, "d")
    assert len(list(folder.examples())) == 1 and reasons(folder) == {"d/README.md": "describes_the_place"}
    assert "cc-by-4.0 (1)" in (tmp_path / "out" / "card.md").read_text()
    put(tmp_path, d__README_dot_md="---\nlicense: mit\n---\n# Docs\n\nconfigs: none\n")
    assert reasons(collected(tmp_path, "d", only="documents")) == {"d/data/x.jsonl": "not_asked_for"}


def test_rows_in_tables_and_packed(tmp_path: Path) -> None:
    import gzip

    put(tmp_path, d__x_dot_csv="prompt,completion\na,b\n", d__y_dot_jsonl_dot_gz=gzip.compress(ROW.encode()))
    put(tmp_path, d__z_dot_txt_dot_gz=gzip.compress(b"prose"))
    folder = collected(tmp_path, "d")
    assert [example.id for example in folder.examples()] == ["d/x.csv:2", "d/y.jsonl.gz:1"]
    assert reasons(folder) == {"d/z.txt.gz": "media_type"}


def test_what_stands_before_a_break_is_kept(tmp_path: Path) -> None:
    put(tmp_path, x_dot_json="[" + f"{ROW.strip()},\n" * 1100 + "{bad")
    folder = collected(tmp_path, "x.json")
    assert len(list(folder.examples())) == 1100 and reasons(folder) == {"x.json": "unreadable"}


def test_documents_and_examples_are_told_apart_and_one_kind_is_asked_for(docs: Path) -> None:
    put(docs, docs__x_dot_jsonl=ROW)
    with pytest.raises(DataError, match="holds one of both") as caught:
        collected(docs, "docs")
    assert "--only documents" in caught.value.hint and not (docs / "out").exists()
    assert reasons(collected(docs, "docs", only="documents")) == {"docs/x.jsonl": "not_asked_for"}
    folder = collected(docs, "docs", only="examples")
    assert [example.id for example in folder.examples()] == ["docs/x.jsonl:1"] and not folder.holds_documents


def test_patterns_archives_and_several_places_in_their_order(docs: Path) -> None:
    import zipfile

    with zipfile.ZipFile(docs / "z.zip", "w") as archive:
        archive.writestr("top/in.md", "inside")
    put(docs, code__m_dot_py="x = 1")
    folder = collected(docs, "z.zip", "docs/**/*.[mh]*", "code/m.py", also=(".py",))
    assert [document.place for document in folder.documents()] == [
        "z.zip!in.md",
        "docs/b.md",
        "docs/sub/c.html",
        "code/m.py",
    ]


PATTERNS = [
    "docs/*",
    "docs/**",
    "**/*.html",
    "docs/*/c.html",
    "*/[ab].*",
    "docs/**/**/?.md",
    "docs/**/s*b/*",
    "docs/b.md",
]


@pytest.mark.parametrize("pattern", [*PATTERNS, "docs", "docs/*/", "./*/[!a].*", "docs/**.html", "*.md", "none/*"])
def test_patterns_fit_what_glob_says_and_go_through_no_link(docs: Path, pattern: str) -> None:
    found = glob.glob(pattern, root_dir=docs, recursive=True)  # noqa: PTH207
    plain = {name for name in found if (docs / name).is_file()}
    assert set(files.matching(pattern, docs)) == plain
    assert files.matches(pattern, docs) == bool(plain) or pattern == "docs"
    for name in ("one", "other"):  # each leads to all: glob goes through both, again and again
        (docs / "docs" / "sub" / name).symlink_to(docs / "docs")
    assert set(files.matching(pattern, docs)) == plain
    assert {f"{docs}/{name}" for name in plain} == set(files.matching(f"{docs}/{pattern}", Path()))


def test_a_pattern_leaves_out_what_a_folder_leaves_out(docs: Path) -> None:
    put(docs, docs___dot_sartorignore="old/\n", docs__old__x_dot_md="x", docs___dot_git__x_dot_md="x")
    put(
        docs,
        docs__LICENSE="Apache License\nVersion 2.0",
        docs__made__examples_dot_jsonl="",
        docs__made__ledger_dot_jsonl="",
    )
    (docs / "docs" / "loop").symlink_to(docs / "docs")
    folder = collected(docs, "docs/**/*.md", "docs/*.txt", "*/sub/[bc].*", exclude=("/a.*",))
    assert [(document.place, document.licence) for document in folder.documents()] == [
        ("docs/b.md", "Apache-2.0"),
        ("docs/sub/c.html", ""),
    ]
    assert reasons(folder) == {
        "docs/.git/": "excluded",
        "docs/a.txt": "excluded",
        "docs/loop": "link",
        "docs/made/": "data_folder",
        "docs/old/": "excluded",
    }
    assert files.matching("docs/**/*.md", docs, ("!.git/", "b.*")) == ["docs/.git/x.md"]
    assert files.matching("docs/**/*", docs) == ["docs/LICENSE", "docs/a.txt", "docs/b.md", "docs/sub/c.html"]


@pytest.mark.parametrize("place", ["d", "d/*", "d/caf\udce9.md", "caf\udce9", "caf\udce9/**"])
def test_names_that_are_not_utf8_are_readable(tmp_path: Path, place: str) -> None:
    for name in ("d", "caf\udce9"):
        put(tmp_path, **{f"{name}__caf\udce9_dot_md": "# Un café", f"{name}__\udce9_dot_exe": "x"})
        (tmp_path / name / "link.md").symlink_to("caf\udce9.md")
    folder = collected(tmp_path, place)
    top = place.partition("/")[0].replace("\udce9", r"\xe9")
    (document,) = folder.documents()
    assert (document.place, document.text) == (rf"{top}/caf\xe9.md", "# Un café")
    if not place.endswith(".md"):
        assert reasons(folder) == {rf"{top}/\xe9.exe": "media_type", f"{top}/link.md": "link"}
    assert "\udce9" not in (tmp_path / "out" / "card.md").read_text()


def test_twice_the_same_gives_the_same_and_what_changes_gets_its_own_time(docs: Path) -> None:
    hours = FakeTime()

    def written() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (docs / "out").iterdir()}

    collected(docs, "docs", hours=hours)
    before = written()
    hours.seconds += 3600
    collected(docs, "docs", hours=hours)
    assert written() == before
    put(docs, docs__a_dot_txt="changed")
    times = {document.place: document.time[11:16] for document in collected(docs, "docs", hours=hours).documents()}
    assert times == {"docs/a.txt": "04:04", "docs/b.md": "03:04", "docs/sub/c.html": "03:04"}


@pytest.mark.parametrize("place", ["nothing", "no/*.md", "a.zip", "docs/none.md"])
def test_where_nothing_is_a_hint_says_what_a_place_is(docs: Path, place: str) -> None:
    with pytest.raises(DataError, match="there is nothing at") as caught:
        collected(docs, place)
    assert "hf:owner/name@revision" in caught.value.hint


def test_an_empty_folder_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="nothing could be taken from d: it is empty"):
        collected(tmp_path, "d")
    put(tmp_path, d__a_dot_exe="x")
    with pytest.raises(DataError, match=r"1 media_type; the first: d/a\.exe"):
        collected(tmp_path, "d")


def test_what_was_collected_is_not_collected_again(docs: Path) -> None:
    folder = collected(docs, ".", target="out")
    assert reasons(collected(docs, ".", target="again")) == {"./out/": "data_folder"}
    assert len(list(folder.documents())) == 3
    with pytest.raises(DataError, match="out is a data folder already"):
        collected(docs, "out", target="again")


def test_what_is_no_data_folder_is_not_replaced(docs: Path) -> None:
    for target in ("docs", "docs/b.md"):
        with pytest.raises(UserError, match="is there, and is no data folder"):
            collected(docs, "docs", target=target)
    assert (docs / "docs" / "b.md").read_text() == "# Bee\n"


def test_a_link_that_is_named_is_followed(docs: Path) -> None:
    (docs / "link.md").symlink_to("docs/b.md")
    (document,) = collected(docs, "link.md").documents()
    assert (document.place, document.text) == ("link.md", "# Bee\n")


def test_what_a_killed_collection_left_is_cleared(docs: Path) -> None:
    left = docs / ".staging-999999999-out"
    mine = docs / f".staging-{os.getpid()}-other"
    left.mkdir()
    mine.mkdir()
    collected(docs, "docs")
    assert not left.exists() and mine.exists()


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("docs", "files"),
        ("docs/b.md", "files"),
        ("https://x.example/", "web"),
        ("HTTP://x.example", "web"),
        ("hf:a/b", "hub"),
    ],
)
def test_places_are_known_by_their_form(docs: Path, place: str, source: str) -> None:
    found = origin_of(place, root=docs)
    assert isinstance(found, Origin) and found.source == source


def test_options_say_how_and_not_what(docs: Path) -> None:
    assert origin_of("docs", {"also": (".py",)}, root=docs) == origin_of("docs", root=docs, also=(".py",))
    for name in ("place", "root"):
        with pytest.raises(RecipeError, match=f"docs: `{name}` is no option") as caught:
            origin_of("docs", {"also": (".py",), name: "/x"}, root=docs)
        assert "files knows also, exclude, fields, format" in caught.value.hint
    with pytest.raises(RecipeError, match="`place` is no option"):
        origin_of("docs", root=docs, place="x")


NAMES = st.sampled_from(["a.md", "b.txt", "c.html", "d.jsonl", "e.pdf", "f.bin", "g.csv", "sub/h.md", ".i.md"])


@settings(max_examples=25, deadline=None)
@given(files=st.dictionaries(NAMES, st.binary(max_size=60), min_size=1))
def test_every_file_is_kept_or_told(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "d").mkdir()
    for name, content in {**files, "z.md": b"at least one"}.items():
        (root / "d" / name).parent.mkdir(exist_ok=True)
        (root / "d" / name).write_bytes(content)
    folder = collected(root, "d", only="documents")
    told = {entry.file for entry in folder.ledger() if entry.action == "dropped"}
    kept = {document.place for document in folder.documents()}
    assert told | kept == {f"d/{name}" for name in files} | {"d/z.md"} and not told & kept
