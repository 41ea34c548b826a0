import errno
import json
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.errors import LissomError, OutputOccupied
from lissom.files import atomic_file, digest, exclusive, fingerprint, write_bytes, write_json, write_text

checked = settings(deadline=None, derandomize=True, max_examples=60)


def left_over(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folder(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "file.bin", b"all of it")
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"all of it"
    assert left_over(tmp_path / "a" / "b") == ["file.bin"]


def test_an_error_leaves_what_stood_there_and_nothing_else(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def interrupted():
        with atomic_file(target) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert left_over(tmp_path) == ["file.bin"]


def test_a_killed_process_leaves_what_stood_there(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom lissom.files import atomic_file\nwith atomic_file(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_one_sentence(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")

    def fill():
        with atomic_file(target) as file, open("/dev/full", "wb", buffering=0) as full:
            file.write(b"new")
            full.write(b"no room")

    with pytest.raises(
        LissomError, match=r"no disk space left to write .*file\.bin: nothing there was changed; free some space"
    ) as full:
        fill()
    assert full.value.__cause__.errno == errno.ENOSPC
    assert target.read_bytes() == b"old"
    assert left_over(tmp_path) == ["file.bin"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LissomError, match=r"cannot write .*other"):
        write_text(tmp_path / "file" / "other", "x")


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_text(tmp_path / "ours", "é")
    (tmp_path / "usual").write_text("é", encoding="utf-8")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "usual").read_bytes()


def test_json_is_whole_and_finite(tmp_path):
    write_json(tmp_path / "v.json", {"a": [1, 2.5, None]})
    assert json.loads((tmp_path / "v.json").read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "v.json", {"a": float("nan")})
    assert json.loads((tmp_path / "v.json").read_text()) == {"a": [1, 2.5, None]}


def test_readers_see_one_whole_version_while_it_is_written_again(tmp_path):
    target = tmp_path / "file.bin"
    versions = [bytes([number]) * 200_000 for number in range(20)]
    write_bytes(target, versions[0])
    writer = threading.Thread(target=lambda: [write_bytes(target, version) for version in versions])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(target.read_bytes())
    writer.join()
    assert seen <= set(versions)
    assert target.read_bytes() == versions[-1]


@checked
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_digest_tells_files_apart(tmp_path_factory, one, two):
    folder = tmp_path_factory.mktemp("digest")
    write_bytes(folder / "one", one)
    write_bytes(folder / "two", two)
    assert (digest(folder / "one") == digest(folder / "two")) == (one == two)


values = st.one_of(st.integers(), st.text(), st.booleans(), st.none(), st.binary(), st.lists(st.integers(), max_size=3))


@checked
@given(st.dictionaries(st.text(min_size=1), values, max_size=4), st.dictionaries(st.text(min_size=1), values, max_size=4))
def test_fingerprints_are_equal_for_equal_parts_alone(one, two):
    def kinds(parts):
        return {name: (type(value), value) for name, value in parts.items()}

    assert fingerprint(**one) == fingerprint(**dict(reversed(one.items())))
    json_like = {name: value for name, value in one.items() if not isinstance(value, bytes)}
    assert len(fingerprint(**json_like)) == 16
    if kinds(one) != kinds(two) and not any(isinstance(v, bytes) for v in (*one.values(), *two.values())):
        assert fingerprint(**one) != fingerprint(**two)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    lock = tmp_path / "out" / ".lissom-job" / "lock"
    with (
        exclusive(lock),
        pytest.raises(OutputOccupied, match=r"another lissom run is writing to .*out: wait for it"),
        exclusive(lock),
    ):
        pass
    with exclusive(lock):
        assert lock.exists()
