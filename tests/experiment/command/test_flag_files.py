import os

import pytest

from experiment.command.flag_files import MOST_BYTES, with_flag_files
from registry import UserError


def test_lines_take_the_place_of_their_file(tmp_path):
    (tmp_path / "inner").write_bytes("\ufeff--seed=2\r\n\r\n  // no flag\n--é=x y \n".encode())
    (tmp_path / "outer").write_text(f"# a comment\n--net=VGG\n--flagfile={tmp_path / 'inner'}\n--a")
    words = ["--first", "--flagfile", str(tmp_path / "outer"), "--last", "--", "--flagfile=x"]
    assert with_flag_files(words) == [
        "--first", "--net=VGG", "--seed=2", "--é=x y", "--a", "--last", "--", "--flagfile=x",
    ]
    again = [f"-flagfile={tmp_path / 'inner'}"] * 2  # twice, but not in itself
    assert with_flag_files(again) == ["--seed=2", "--é=x y"] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "names no file"), ("missing", "No such file"), (".", "is a folder"),
        ("pipe", "is a named pipe"), ("itself", "names itself"), ("ring", "names itself"),
        ("bytes", "is not UTF-8 text"), ("zero", "zero byte"), ("large", "more than 1,000,000"),
        ("/dev/zero", "is a device"), ("loop", "symbolic links"), ("~nobody_/x", "No such"),
    ],
)
def test_files_that_are_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    for file, content in {
        "itself": b"--flagfile=itself", "ring": b"--flagfile=gnir", "gnir": b"--flagfile=./ring",
        "bytes": b"--a=\xff", "zero": b"--a=\0", "large": b"x" * (MOST_BYTES + 1),
    }.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        with_flag_files([f"--flagfile={name}"])
