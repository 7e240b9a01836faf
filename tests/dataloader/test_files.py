"""Which files are opened, how they are listed, how text is read."""

import os
import socket

import pytest

from dataloader.files import decode_text, list_files, printable, read_lines, subfolders
from registry import UserError
from regular_files import check_regular, read_bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_and_without_a_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Käfer 1\r\n\r\n  蜂 \n".encode(encoding))
    assert read_lines(tmp_path / "a.txt") == ["Käfer 1", "蜂"]


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be"])
def test_marks_of_either_order(encoding):
    assert decode_text("\ufeffa1".encode(encoding)) == "a1"


@pytest.mark.parametrize("content", [
    "Käfer\n".encode("latin-1"), "a1\n".encode("utf-16-le"), b"a\x001\n", b"\xff\xfea", b"\x1b[2J",
])  # fmt: skip
def test_other_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match="a.txt .*UTF-8") as caught:
        read_lines(tmp_path / "a.txt")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)
    listening.bind("socket")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "file").write_bytes(b"content")
    for name, kind in {
        "pipe": "a named pipe", "socket": "a socket", "link": "a device", ".": "a folder",
    }.items():
        with pytest.raises(OSError, match=f"is {kind}, not a file"):
            read_bytes(tmp_path / name)
    listening.close()
    check_regular(tmp_path / "file")
    assert read_bytes(tmp_path / "file") == b"content"
    with pytest.raises(OSError, match="has more than 3 bytes"):
        read_bytes(tmp_path / "file", 3)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


def test_listing(tmp_path):
    for name in ("b/z.png", "b/a/1.png", "b.png", ".h/x.png", "a b/.x.png", "a b/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "other").symlink_to(tmp_path / "b")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    listing = list_files(tmp_path)
    assert listing.files == [
        "a b/x.png", "b/a/1.png", "b/z.png", "b.png", "other/a/1.png", "other/z.png",
    ]
    assert listing.others == ["gone"]
    assert set(listing.folders) == {
        str(tmp_path / name) for name in ("", "a b", "b", "b/a", "other", "other/a")
    }
    assert list(subfolders(tmp_path)) == ["a b", "b", "other"]
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    with pytest.raises(OSError, match="links to a folder that contains it"):
        list_files(tmp_path)


def test_names_in_messages_are_one_printable_line():
    assert printable("a\nb\x1b") == "a\\nb\\x1b"
    assert printable(os.fsdecode(b"caf\xe9 \xc3\xa9")) == "caf\\xe9 é"
